//! The watch over settings that wait for a restart: reported until it is true no longer, and, where the spec's policy is
//! `when_idle`, ended by a restart in the first moment without clients.
//!
//! Nothing is looked at while nothing waits. Between the look that saw no client and the stop of the server lies no other
//! question; a client that connects in between is cut like in any restart.

use std::pin::Pin;
use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::spec::RestartPolicy;
use pgfleet_domain::lifecycle::Event;

use super::body::{Body, Look};
use super::driver::{Driver, Job, Via};
use super::work::Order;
use crate::ledger::Entry;

/// What the watch has seen.
pub(super) enum Seen {
    /// Other settings wait than before, or none.
    Pending(Vec<String>),
    /// Nobody is connected.
    Idle,
}

pub(super) struct Watching(Pin<Box<dyn Future<Output = Seen> + Send>>);

impl Watching {
    fn begin<B: Body>(body: B, known: Vec<String>, every: Duration, for_idle: bool) -> Self {
        Self(Box::pin(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(Look { pending, clients }) = body.look().await else { continue };
                if pending != known {
                    return Seen::Pending(pending);
                }
                if for_idle && clients == 0 {
                    return Seen::Idle;
                }
            }
        }))
    }

    /// Waits until there is something to do; for ever, where nothing waits. May be dropped and called again.
    pub(super) async fn seen(watching: &mut Option<Self>) -> Seen {
        match watching {
            Some(watching) => watching.0.as_mut().await,
            None => std::future::pending().await,
        }
    }
}

impl<B: Body> Driver<B> {
    /// Watches while settings wait and PostgreSQL serves. Called when a job has ended.
    pub(super) fn watch_what_waits(&mut self) {
        self.watching = None;
        let known = self.publisher.watch().borrow().pending_restart.clone();
        let serves = matches!(self.state, ComputeState::Running | ComputeState::Failed);
        if known.is_empty() || !serves || self.running.is_some() || self.server.is_none() {
            return;
        }
        let policy = self.accepted.as_ref().map_or(RestartPolicy::Never, |accepted| accepted.spec.restart_policy);
        let for_idle = policy == RestartPolicy::WhenIdle && self.state == ComputeState::Running;
        let every = if for_idle { self.options.pace.look_for_idle } else { self.options.pace.look };
        self.watching = Some(Watching::begin(self.body.clone(), known, every, for_idle));
    }

    pub(super) async fn on_seen(&mut self, seen: Seen) {
        self.watching = None;
        match seen {
            Seen::Pending(pending) => {
                let proved = pending.is_empty() && !self.ledger.entry().rejected;
                self.publisher.update(|status| status.pending_restart = pending);
                if proved {
                    let entry = self.ledger.entry().clone();
                    self.good.clone_from(&self.accepted);
                    self.write_down(Entry { good: entry.accepted.clone(), ..entry }).await;
                }
                self.watch_what_waits();
            }
            Seen::Idle => {
                tracing::info!("no client is connected: PostgreSQL is restarted (restart_policy is when_idle)");
                self.step(Event::RestartStarted);
                self.begin(Job::own(Order::Restart, Via::Init));
            }
        }
    }
}
