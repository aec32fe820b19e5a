//! How jobs end: what the driver does with a result.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::Lsn;
use pgfleet_api::agent::{AgentStatus, ComputeState, ErrorDetail};
use pgfleet_domain::lifecycle::Event;
use tokio::time::Instant;

use super::body::Body;
use super::driver::{Driver, DriverError, Job, Running, Via};
use super::handle::{Ended, Outcome};
use super::metrics::ConfigureOutcome;
use super::work::{Done, Effect, Failure, Order};
use crate::ledger::Entry;

/// Tries of a job whose place is at fault, before the compute counts as failed.
const TRIES: u32 = 5;

impl<B: Body> Driver<B> {
    pub(super) async fn on_done(&mut self, done: Done<B::Server>) {
        let Some(Running { job, begun, .. }) = self.running.take() else { return };
        if done.server.is_some() {
            self.server_since = Instant::now();
        }
        self.server = done.server;
        if matches!(job.order, Order::Stop) {
            self.stopped(done.result.ok().and_then(|effect| effect.lsn));
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
            Err(Failure::Spec { failures, effect, rolled_back }) => {
                self.rejected(job, &failures, effect, rolled_back).await;
            }
            Err(Failure::Place(detail)) => self.hindered(job, detail),
            Err(Failure::Exhausted(detail)) => self.hindered(Job { tries: TRIES, ..job }, detail),
            Err(Failure::Superseded) => self.answer(job, Outcome::Superseded),
            Err(Failure::Cancelled) => self.answer(job, Outcome::Ended),
        }
        match self.waiting.take() {
            Some(job) => self.begin_spec(job),
            None => self.refresh_if_remembered(),
        }
        self.watch_what_waits();
    }

    async fn succeeded(&mut self, job: Job, effect: Effect) {
        let given_up = job.kept.is_none() && self.nothing_to_go_back_to();
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
                self.show_failure(&[ErrorDetail { phase: "spec".into(), object: None, sqlstate: None, message }]);
                self.step(Event::StartFailed);
            }
            Via::Init => self.run_on(Event::StartSucceeded),
            Via::Configuration | Via::Refresh => self.run_on(Event::ApplySucceeded),
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
            // A newer one that still waits is not what was started.
            Order::Start | Order::Restart if !entry.rejected && self.waiting.is_none() => entry.accepted.clone(),
            Order::Start | Order::Restart | Order::Stop => return,
        };
        entry.rejected = entry.rejected && entry.accepted != in_effect;
        if effect.pending_restart.is_empty() {
            self.good = match &job.order {
                Order::Apply(prepared) => Some(Arc::clone(prepared)),
                Order::Start | Order::Restart | Order::Stop => self.accepted.clone(),
            };
            entry.good = in_effect;
        }
        self.write_down(entry).await;
    }

    fn run_on(&mut self, event: Event) {
        self.publisher.update(|status| {
            status.error = None;
            status.error_detail = None;
            status.failures.clear();
        });
        self.body.timings().running();
        self.step(event);
    }

    async fn rejected(&mut self, job: Job, failures: &[ErrorDetail], effect: Effect, rolled_back: bool) {
        let entry = self.ledger.entry().clone();
        // A restart may show that a configuration, taken before, does not start: then the spec it was taken from is at fault,
        // also where a newer one waits by now.
        let at_fault = job.kept.as_ref().or(job.started_with.as_ref());
        let rejected_generation = entry.rejected_generation.max(at_fault.and_then(|kept| kept.generation));
        let rejected = entry.rejected || (at_fault.is_some() && at_fault == entry.accepted.as_ref());
        let good = entry.good.as_ref().and_then(|kept| kept.generation);
        self.write_down(Entry { rejected, rejected_generation, ..entry }).await;
        self.publisher.update(|status| {
            status.postgres = effect.postgres;
            status.pending_restart = effect.pending_restart;
            if rolled_back {
                status.applied_generation = good;
            }
        });
        self.show_failure(failures);
        self.move_to_failed(job.via);
        self.answer(job, Outcome::Failed);
    }

    fn hindered(&mut self, mut job: Job, detail: ErrorDetail) {
        job.tries += 1;
        let pause = self.pauses.next_pause();
        let failed = job.tries >= TRIES && job.via != Via::Silent;
        if !failed {
            tracing::warn!(pause_ms = pause.as_millis(), "{}: {}; trying again", detail.phase, detail.message);
            self.scheduled = Some((Instant::now() + pause, job));
            return;
        }
        self.show_failure(&[detail]);
        self.move_to_failed(job.via);
        if job.via == Via::Refresh {
            // The next pull brings it back.
            return self.answer(job, Outcome::Failed);
        }
        job.via = Via::Silent;
        for waiter in job.waiters.drain(..) {
            let _ = waiter.send(Outcome::Failed);
        }
        self.metrics.ended(ConfigureOutcome::Failed);
        self.scheduled = Some((Instant::now() + pause, job));
    }

    /// Whether the accepted spec was given up, and PostgreSQL is not to run with an earlier one.
    fn nothing_to_go_back_to(&self) -> bool {
        let entry = self.ledger.entry();
        entry.rejected && (entry.good.is_none() || self.keeps_what_failed())
    }

    pub(super) fn move_to_failed(&mut self, via: Via) {
        match via {
            Via::Init => self.step(Event::StartFailed),
            Via::Configuration => self.step(Event::ApplyFailed),
            Via::Refresh => {
                self.step(Event::ApplyFailed);
                self.ask_again();
            }
            Via::Silent => {}
        }
        if self.options.exit_on_failure {
            let said = self.publisher.watch().borrow().error.clone().unwrap_or_default();
            self.failed = Some(DriverError::Failed(said));
        }
    }

    fn stopped(&mut self, lsn: Option<Lsn>) {
        let at_once = self.state == ComputeState::TerminationPendingImmediate;
        let wait = if at_once { Duration::ZERO } else { self.options.pace.last_words };
        self.publisher.update(|status| status.postgres = None);
        self.step(Event::PostgresStopped);
        self.exit_at = Some(Instant::now() + wait);
        self.ended_at = lsn;
        for reply in self.terminators.drain(..) {
            let _ = reply.send(Ok(Ended { lsn, before: false }));
        }
    }

    /// The ledger after the fact: what it lacks is done again after a restart, so a failure is logged and no more.
    pub(super) async fn write_down(&mut self, entry: Entry) {
        if let Err(error) = self.ledger.keep(entry).await {
            tracing::error!("{}", pgfleet_runtime::exit::chain(&error));
        }
        self.publisher.show_ledger(self.ledger.entry());
    }

    /// Shows why it failed; the first failure is the reason.
    pub(super) fn show_failure(&self, failures: &[ErrorDetail]) {
        let Some(detail) = failures.first() else { return };
        let object = detail.object.as_ref().map(|object| format!(" {object:?}")).unwrap_or_default();
        let more = match failures.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let line = format!("{}{object}: {}{more}", detail.phase, detail.message);
        tracing::error!(phase = detail.phase, object = detail.object, sqlstate = detail.sqlstate, "{line}");
        self.publisher.update(|status| {
            status.error = Some(line);
            status.error_detail = Some(detail.clone());
            status.failures = failures[..failures.len().min(AgentStatus::FAILURES_SHOWN)].to_vec();
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
