//! The slow look at every compute, so that what changed without us is noticed: an agent restarted, a PostgreSQL died.

use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::ComputeState;
use pgfleet_clients::agent::AgentError;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Call, Entry, Filter, Snapshot};
use crate::agents::Agents;
use crate::reconcile::{MayAct, Quarantine, Room, Waker};

/// Computes looked up at a time.
const PAGE: usize = 256;

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
    quarantine: Quarantine,
    may_act: MayAct,
    settings: SweepSettings,
    token: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut probes: JoinSet<()> = JoinSet::new();
    let mut last: Option<ComputeId> = None;
    while !token.is_cancelled() {
        // Page by page, so that no list of the whole fleet is ever made.
        let (page, more) = snapshot.page(&Filter::default(), last.as_ref(), PAGE);
        let step = settings.period / u32::try_from(snapshot.count()).unwrap_or(u32::MAX).max(1);
        if page.is_empty() {
            pause(step, &token).await;
        }
        last = page.last().filter(|_| more).map(|entry| entry.record.compute_id.clone());
        for id in page.into_iter().map(|entry| entry.record.compute_id.clone()) {
            pause(step, &token).await;
            while probes.len() >= settings.concurrency {
                note(probes.join_next().await);
            }
            if token.is_cancelled() {
                break;
            }
            // A leader that cannot prove its lease asks nobody. The tries of a quarantined compute are the engine's.
            if !may_act() || quarantine.holds(&id) {
                continue;
            }
            let (snapshot, agents) = (snapshot.clone(), agents.clone());
            let (waker, quarantine) = (waker.clone(), quarantine.clone());
            probes.spawn(async move {
                let looked = quarantine.watch(Room::Observe, &id, look(&snapshot, &agents, &id)).await;
                // After a panic the engine reads it anew, and tries it later if it is quarantined now.
                if looked.unwrap_or(true) {
                    waker.wake(id);
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

/// Probes one compute. Returns whether the engine has to look at it.
pub(super) async fn look(snapshot: &Snapshot, agents: &Agents, id: &ComputeId) -> bool {
    let Some(entry) = snapshot.get(id) else { return false };
    match agents.probe(&entry.record.agent_url).await {
        // An agent that was away may need its spec again, so a compute that comes back is looked at as well.
        Ok(probed) => snapshot.observed(id, Call::Probe, probed.observed) || entry.trouble.is_some(),
        // One that was ended has no agent any more, and that is no trouble.
        Err(AgentError::Unreachable { .. }) if has_ended(&entry) => false,
        Err(error) => {
            snapshot.refused(id, Call::Probe, &error.to_string(), error.answered());
            false
        }
    }
}

fn has_ended(entry: &Entry) -> bool {
    entry.observed.as_ref().is_some_and(|seen| seen.state == ComputeState::Terminated)
}

/// A panic of a probe is caught in it; what breaks beyond that is a defect all the same, and the sweep goes on.
fn note(ended: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = ended {
        tracing::error!(%error, "a probe of the sweep broke");
    }
}

async fn pause(time: Duration, token: &CancellationToken) {
    tokio::select! {
        () = token.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
