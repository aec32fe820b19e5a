//! How jobs end: what the driver does with a result.

use std::time::Duration;

use pgfleet_api::agent::{ComputeState, ErrorDetail};
use pgfleet_domain::lifecycle::Event;
use tokio::time::Instant;

use super::driver::{Driver, DriverError, Job, Running, Via};
use super::handle::Outcome;
use super::metrics::ConfigureOutcome;
use super::work::{Done, Effect, Failure, Order};
use crate::ledger::Entry;

/// Tries of a job whose place is at fault, before the compute counts as failed.
const TRIES: u32 = 5;
/// How long a terminated compute shows its status.
const LAST_WORDS: Duration = Duration::from_secs(30);

impl Driver {
    pub(super) async fn on_done(&mut self, done: Done) {
        let Some(Running { job, begun, .. }) = self.running.take() else { return };
        if done.server.is_some() {
            self.server_since = Instant::now();
        }
        self.server = done.server;
        if matches!(job.order, Order::Stop) {
            self.stopped();
            return;
        }
        if !self.terminators.is_empty() {
            self.answer(job, Outcome::Ended);
            self.begin_stop();
            return;
        }
        self.metrics.took(begun.elapsed());
        match done.result {
            Ok(effect) => self.succeeded(job, effect).await,
            Err(Failure::Spec { detail, effect, rolled_back }) => {
                self.rejected(job, &detail, effect, rolled_back).await;
            }
            Err(Failure::Place(detail)) => self.hindered(job, &detail),
            Err(Failure::Cancelled) => self.answer(job, Outcome::Ended),
        }
        self.begin_waiting();
    }

    fn begin_waiting(&mut self) {
        let Some(job) = self.waiting.take() else { return };
        if let Some((_, replaced)) = self.scheduled.take() {
            self.answer(replaced, Outcome::Superseded);
        }
        if matches!(self.state, ComputeState::Running | ComputeState::Failed) {
            self.step(Event::SpecAccepted);
            self.begin(job);
        } else {
            // The job before is to be tried again and its state stands: this one ends it.
            let via = if self.state == ComputeState::Init { Via::Init } else { Via::Configuration };
            self.begin(Job { via, ..job });
        }
    }

    async fn succeeded(&mut self, job: Job, effect: Effect) {
        let given_up = job.kept.is_none() && self.ledger.entry().rejected && self.ledger.entry().good.is_none();
        let applied = matches!(job.order, Order::Apply(_));
        self.keep_good(&job, &effect).await;
        self.pauses.reset();
        self.publisher.update(|status| {
            status.postgres = effect.postgres;
            status.pending_restart = effect.pending_restart;
            if let Some(kept) = &job.kept {
                status.applied_generation = kept.generation;
            }
        });
        match job.via {
            Via::Init if given_up => {
                let message = "the accepted spec was given up before; a new one leads on".to_owned();
                self.show_failure(&ErrorDetail { phase: "spec".into(), object: None, sqlstate: None, message });
                self.step(Event::StartFailed);
            }
            Via::Init => self.run_on(Event::StartSucceeded),
            Via::Configuration => self.run_on(Event::ApplySucceeded),
            // What failed because of the place works now; a spec that was given up stays failed.
            Via::Silent if applied && self.state == ComputeState::Failed && !self.ledger.entry().rejected => {
                self.step(Event::SpecAccepted);
                self.step(Event::ApplyStarted);
                self.run_on(Event::ApplySucceeded);
            }
            Via::Silent => {}
        }
        self.answer(job, Outcome::Applied);
    }

    /// Writes down what is fully in effect: not while a part of it waits for a restart that may show that it is bad.
    async fn keep_good(&mut self, job: &Job, effect: &Effect) {
        let mut entry = self.ledger.entry().clone();
        let in_effect = match job.order {
            Order::Apply(_) => job.kept.clone(),
            Order::Start if !entry.rejected => entry.accepted.clone(),
            Order::Start | Order::Stop => return,
        };
        entry.rejected = entry.rejected && entry.accepted != in_effect;
        if effect.pending_restart.is_empty() {
            entry.good = in_effect;
        }
        self.write_down(entry).await;
    }

    fn run_on(&mut self, event: Event) {
        self.publisher.update(|status| {
            status.error = None;
            status.error_detail = None;
        });
        self.tools.timings.running();
        self.step(event);
    }

    async fn rejected(&mut self, job: Job, detail: &ErrorDetail, effect: Effect, rolled_back: bool) {
        let entry = self.ledger.entry().clone();
        // A restart may show that a configuration, taken before, does not start: then the accepted spec is at fault.
        let at_fault = job.kept.as_ref().or(entry.accepted.as_ref()).and_then(|kept| kept.generation);
        let rejected_generation = at_fault.or(entry.rejected_generation);
        let good = entry.good.as_ref().and_then(|kept| kept.generation);
        self.write_down(Entry { rejected: true, rejected_generation, ..entry }).await;
        self.publisher.update(|status| {
            status.postgres = effect.postgres;
            status.pending_restart = effect.pending_restart;
            if rolled_back {
                status.applied_generation = good;
            }
        });
        self.show_failure(detail);
        self.move_to_failed(job.via);
        self.answer(job, Outcome::Failed);
    }

    fn hindered(&mut self, mut job: Job, detail: &ErrorDetail) {
        job.tries += 1;
        let pause = self.pauses.next_pause();
        if job.tries >= TRIES && job.via != Via::Silent {
            self.show_failure(detail);
            self.move_to_failed(job.via);
            job.via = Via::Silent;
            for waiter in job.waiters.drain(..) {
                let _ = waiter.send(Outcome::Failed);
            }
            self.metrics.ended(ConfigureOutcome::Failed);
        } else {
            tracing::warn!(pause_ms = pause.as_millis(), "{}: {}; trying again", detail.phase, detail.message);
        }
        self.scheduled = Some((Instant::now() + pause, job));
    }

    pub(super) fn move_to_failed(&mut self, via: Via) {
        match via {
            Via::Init => self.step(Event::StartFailed),
            Via::Configuration => self.step(Event::ApplyFailed),
            Via::Silent => {}
        }
        if self.options.exit_on_failure {
            let said = self.publisher.watch().borrow().error.clone().unwrap_or_default();
            self.failed = Some(DriverError::Failed(said));
        }
    }

    fn stopped(&mut self) {
        let at_once = self.state == ComputeState::TerminationPendingImmediate;
        let wait = if at_once { Duration::ZERO } else { LAST_WORDS };
        self.publisher.update(|status| status.postgres = None);
        self.step(Event::PostgresStopped);
        self.exit_at = Some(Instant::now() + wait);
        for reply in self.terminators.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    /// The ledger after the fact: what it lacks is done again after a restart, so a failure is logged and no more.
    pub(super) async fn write_down(&mut self, entry: Entry) {
        if let Err(error) = self.ledger.keep(entry).await {
            tracing::error!("{}", pgfleet_runtime::exit::chain(&error));
        }
        self.publisher.show_ledger(self.ledger.entry());
    }

    pub(super) fn show_failure(&self, detail: &ErrorDetail) {
        let object = detail.object.as_ref().map(|object| format!(" {object:?}")).unwrap_or_default();
        let line = format!("{}{object}: {}", detail.phase, detail.message);
        tracing::error!(phase = detail.phase, object = detail.object, sqlstate = detail.sqlstate, "{line}");
        self.publisher.update(|status| {
            status.error = Some(line);
            status.error_detail = Some(detail.clone());
        });
    }

    pub(super) fn answer(&self, job: Job, outcome: Outcome) {
        if job.kept.is_some() {
            self.metrics.ended(outcome.into());
        }
        for waiter in job.waiters {
            // A caller that went away does not mind.
            let _ = waiter.send(outcome);
        }
    }
}
