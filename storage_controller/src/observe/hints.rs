//! Reasons to ask an agent sooner than its turn. A hint is never a fact: it makes a probe, and that is believed.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use pgfleet_api::ComputeId;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Snapshot;
use super::sweep::look;
use crate::agents::Agents;
use crate::reconcile::{MayAct, Quarantine, Room, Waker};

/// Probes at once that hints ask for.
const AT_ONCE: usize = 16;

/// The handle. Cheap to clone; never blocks; bounded by the number of computes, because each is held once.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    hinted: Arc<Mutex<BTreeSet<ComputeId>>>,
    nudge: Arc<Notify>,
}

impl Hints {
    /// The agent of a compute reports a change: it is asked soon. The caller has checked that there is such a compute.
    pub fn hint(&self, id: ComputeId) {
        self.hinted.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        self.nudge.notify_one();
    }

    fn take(&self) -> Option<ComputeId> {
        self.hinted.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }

    /// Asks whoever is hinted at, until `token` is cancelled.
    ///
    /// # Errors
    /// Never; the type is what a task has.
    pub async fn follow(
        self,
        snapshot: Snapshot,
        agents: Agents,
        waker: Waker,
        quarantine: Quarantine,
        may_act: MayAct,
        token: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut probes: JoinSet<()> = JoinSet::new();
        loop {
            while probes.len() < AT_ONCE {
                let Some(id) = self.take() else { break };
                if !may_act() || quarantine.holds(&id) {
                    continue;
                }
                let (snapshot, agents) = (snapshot.clone(), agents.clone());
                let (waker, quarantine) = (waker.clone(), quarantine.clone());
                probes.spawn(async move {
                    let looked = quarantine.watch(Room::Observe, &id, look(&snapshot, &agents, &id)).await;
                    if looked.unwrap_or(true) {
                        waker.wake(id);
                    }
                });
            }
            tokio::select! {
                () = token.cancelled() => break,
                () = self.nudge.notified() => {}
                // A panic of a probe is caught in it.
                Some(_) = probes.join_next(), if !probes.is_empty() => {}
            }
        }
        probes.shutdown().await;
        Ok(())
    }
}
