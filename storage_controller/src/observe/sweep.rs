//! The slow look at every compute, so that what changed without us is noticed: an agent restarted, a PostgreSQL died.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Call, Snapshot};
use crate::agents::Agents;
use crate::reconcile::Waker;

/// Period and width of the sweep.
#[derive(Debug, Clone, Copy)]
pub struct SweepSettings {
    /// Every compute is asked once in this time.
    pub period: Duration,
    /// Probes at once.
    pub concurrency: usize,
}

/// Probes every compute once per period, spread over it, until `token` is cancelled.
///
/// # Errors
/// Never; the type is what a task has.
pub async fn sweep(
    snapshot: Snapshot,
    agents: Agents,
    waker: Waker,
    settings: SweepSettings,
    token: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut probes: JoinSet<()> = JoinSet::new();
    while !token.is_cancelled() {
        let ids = snapshot.ids();
        let step = settings.period / u32::try_from(ids.len()).unwrap_or(u32::MAX).max(1);
        if ids.is_empty() {
            pause(step, &token).await;
        }
        for id in ids {
            pause(step, &token).await;
            while probes.len() >= settings.concurrency {
                note(probes.join_next().await);
            }
            if token.is_cancelled() {
                break;
            }
            let (snapshot, agents, waker) = (snapshot.clone(), agents.clone(), waker.clone());
            probes.spawn(async move {
                let Some(entry) = snapshot.get(&id) else { return };
                match agents.probe(&entry.record.agent_url).await {
                    // An agent that was away may need its spec again, so a compute that comes back is looked at as well.
                    Ok(observed) => {
                        if snapshot.observed(&id, Call::Probe, observed) || entry.trouble.is_some() {
                            waker.wake(id);
                        }
                    }
                    Err(error) => snapshot.failed(&id, Call::Probe, &error.to_string()),
                }
            });
            while let Some(ended) = probes.try_join_next() {
                note(Some(ended));
            }
        }
    }
    probes.shutdown().await;
    Ok(())
}

/// A probe that panics is a defect, but only that compute's: the sweep goes on.
fn note(ended: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = ended {
        tracing::error!(%error, "a probe of the sweep panicked");
    }
}

async fn pause(time: Duration, token: &CancellationToken) {
    tokio::select! {
        () = token.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
