//! The refresh: a spec is asked for until there is one, and applied whatever is new in it.
//!
//! ```text
//! running, failed ─► refresh_configuration_pending ─► (asked) ─► refresh_configuration ─► running
//!                        ▲  nothing could be had, or it was given up: asked again  ◄──┘ failed
//! ```
//!
//! An answer that brings nothing new has the accepted spec applied again, unless that was given up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_clients::retry::Backoff;
use pgfleet_domain::lifecycle::{Event, transition};

use super::admission::Decision;
use super::body::{Body, Fetched};
use super::driver::{Driver, DriverError, Pace};
use super::handle::{Configure, Refusal};
use super::work::Prepared;

/// Questions with a short pause, before the pauses grow.
const QUICK: u32 = 3;
/// Pause between them.
const QUICK_PAUSE: Duration = Duration::from_millis(100);

/// A question under way, or to be asked again.
pub(super) struct Asking {
    answer: Pin<Box<dyn Future<Output = Fetched> + Send>>,
    pauses: Backoff,
    asked: u32,
}

impl Asking {
    fn now<B: Body>(body: &B, pace: &Pace) -> Self {
        let (base, cap) = pace.asks;
        Self { answer: Box::pin(body.fetch()), pauses: Backoff::new(base, cap), asked: 1 }
    }

    fn again<B: Body>(&mut self, body: &B) {
        let pause = if self.asked < QUICK {
            QUICK_PAUSE.min(self.pauses.clone().next_pause())
        } else {
            self.pauses.next_pause()
        };
        self.asked = self.asked.saturating_add(1);
        let next = body.fetch();
        self.answer = Box::pin(async move {
            tokio::time::sleep(pause).await;
            next.await
        });
    }

    /// Waits for the answer; for ever, where nothing is asked. May be dropped and called again.
    pub(super) async fn answered(asking: &mut Option<Self>) -> Fetched {
        match asking {
            Some(asking) => asking.answer.as_mut().await,
            None => std::future::pending().await,
        }
    }
}

impl<B: Body> Driver<B> {
    /// Asks for a spec from now on. While PostgreSQL is being started it is remembered.
    pub(super) fn on_refresh(&mut self) -> Result<(), Refusal> {
        if !self.body.has_source() {
            return Err(Refusal::NoSource);
        }
        if self.state == ComputeState::Init {
            self.refresh_later = true;
            return Ok(());
        }
        if transition(self.state, Event::RefreshRequested).is_err() {
            return Err(Refusal::Ending(self.state));
        }
        self.step(Event::RefreshRequested);
        self.watching = None;
        self.asking = Some(Asking::now(&self.body, &self.options.pace));
        Ok(())
    }

    /// A refresh that came while PostgreSQL was being started.
    pub(super) fn refresh_if_remembered(&mut self) {
        if self.running.is_none()
            && matches!(self.state, ComputeState::Running | ComputeState::Failed)
            && self.refresh_later
        {
            self.refresh_later = false;
            if let Err(refusal) = self.on_refresh() {
                tracing::warn!("a refresh that was asked for earlier is not possible: {refusal:?}");
            }
        }
    }

    /// Goes on asking after the spec that was pulled could not be applied.
    pub(super) fn ask_again(&mut self) {
        let asking = self.asking.get_or_insert_with(|| Asking::now(&self.body, &self.options.pace));
        asking.asked = asking.asked.max(QUICK);
        asking.again(&self.body);
    }

    pub(super) async fn on_fetched(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Spec(configure) => self.on_pulled(&configure).await,
            Fetched::Detached => {
                tracing::warn!("the control plane has no spec for this compute any more: it ends");
                self.failed = Some(DriverError::Detached);
            }
            Fetched::Nothing(why) => {
                tracing::warn!("no spec could be pulled, asking again: {why}");
                if let Some(asking) = &mut self.asking {
                    asking.again(&self.body);
                }
            }
        }
    }

    async fn on_pulled(&mut self, configure: &Configure) {
        match self.judge(configure).await {
            Ok(Decision::Take(prepared)) => return self.take_up(prepared, Vec::new()),
            Ok(Decision::Repeated) => {}
            Err(refusal) => {
                self.metrics.refused(&refusal);
                tracing::warn!("the spec that was pulled is not taken: {refusal:?}");
            }
        }
        match self.accepted_again().await {
            Some(accepted) => self.take_up(accepted, Vec::new()),
            None => self.ask_again(),
        }
    }

    /// The accepted spec, unless it was given up.
    async fn accepted_again(&mut self) -> Option<Arc<Prepared>> {
        let entry = self.ledger.entry();
        let kept = entry.accepted.as_ref().filter(|_| !entry.rejected)?;
        if self.accepted.is_none() {
            // It could not be judged when this life began.
            self.accepted = self.body.prepare(&kept.spec, self.server.is_some()).await.ok();
        }
        self.accepted.clone()
    }
}
