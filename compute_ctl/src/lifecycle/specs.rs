//! How a spec becomes a job: admitted, joined to the one under way, or put in the place of one that waits.

use std::sync::Arc;

use chrono::Utc;
use pgfleet_api::agent::{ComputeState, ErrorDetail};
use pgfleet_domain::lifecycle::{Event, transition};
use tokio::sync::oneshot;

use super::admission::{Decision, admit};
use super::body::Body;
use super::driver::{Driver, Job, Via};
use super::handle::{Admitted, Configure, Outcome, Refusal};
use super::metrics::ConfigureOutcome;
use super::work::{Order, Prepared};

impl<B: Body> Driver<B> {
    pub(super) async fn on_configure(&mut self, configure: Configure) -> Result<Admitted, Refusal> {
        if transition(self.state, Event::SpecAccepted).is_err() {
            return Err(Refusal::Ending(self.state));
        }
        match self.judge(&configure).await? {
            Decision::Repeated => Ok(Admitted { outcome: self.join_job(&configure) }),
            Decision::Take(prepared) => {
                let (waiter, outcome) = oneshot::channel();
                self.take_up(prepared, vec![waiter]);
                Ok(Admitted { outcome: Some(outcome) })
            }
        }
    }

    /// Asks the ledger and the rules. What was taken is the accepted spec from here on.
    pub(super) async fn judge(&mut self, configure: &Configure) -> Result<Decision, Refusal> {
        let server_runs = self.server.is_some();
        let decision = admit(&self.body, &self.options.compute_id, &mut self.ledger, configure, server_runs).await;
        self.publisher.show_ledger(self.ledger.entry());
        if let Ok(Decision::Take(prepared)) = &decision {
            self.accepted = Some(Arc::clone(prepared));
            self.publisher.took(prepared);
            self.publisher.update(|status| {
                if self.state == ComputeState::Empty {
                    status.start_time = Utc::now();
                }
            });
        }
        if let Err(refusal) = &decision {
            self.show_refused(configure, refusal);
        }
        decision
    }

    /// A fenced spec that a rule refuses is given up for good: why is shown, for nobody is told a second time.
    fn show_refused(&self, configure: &Configure, refusal: &Refusal) {
        let (Refusal::Content { path, msg }, Some(fence)) = (refusal, &configure.fence) else { return };
        if self.ledger.entry().rejected_generation == Some(fence.generation) {
            let (phase, object) = ("spec".to_owned(), Some(path.clone()));
            self.show_failure(&[ErrorDetail { phase, object, sqlstate: None, message: msg.clone() }]);
        }
    }

    /// A repeated request waits with the first one, where that is still under way.
    fn join_job(&mut self, configure: &Configure) -> Option<oneshot::Receiver<Outcome>> {
        let generation = configure.fence.as_ref()?.generation;
        let jobs = [
            self.running.as_mut().map(|running| &mut running.job),
            self.waiting.as_mut(),
            self.scheduled.as_mut().map(|(_, job)| job),
        ];
        let job =
            jobs.into_iter().flatten().find(|job| job.kept.as_ref().and_then(|k| k.generation) == Some(generation));
        let Some(job) = job else {
            self.metrics.ended(ConfigureOutcome::Repeated);
            return None;
        };
        let (waiter, outcome) = oneshot::channel();
        job.waiters.push(waiter);
        Some(outcome)
    }

    /// Begins the accepted spec, or lets it wait in the place of an earlier one.
    pub(super) fn take_up(&mut self, prepared: Arc<Prepared>, waiters: Vec<oneshot::Sender<Outcome>>) {
        let kept = self.ledger.entry().accepted.clone();
        let job = Job { kept, waiters, ..Job::own(Order::Apply(prepared), Via::Silent) };
        if let Some(running) = &self.running {
            running.stop.newer.cancel();
            self.step(Event::SpecAccepted);
            if let Some(replaced) = self.waiting.replace(job) {
                self.answer(replaced, Outcome::Superseded);
            }
            return;
        }
        self.begin_spec(job);
    }

    /// Begins a spec from the state that the machine is in: an earlier job that is to be tried again is ended by it.
    pub(super) fn begin_spec(&mut self, mut job: Job) {
        if let Some((_, replaced)) = self.scheduled.take() {
            self.answer(replaced, Outcome::Superseded);
        }
        self.asking = None;
        job.via = match self.state {
            ComputeState::Empty | ComputeState::Running | ComputeState::Failed | ComputeState::ConfigurationPending => {
                self.step(Event::SpecAccepted);
                self.step(Event::ApplyStarted);
                Via::Configuration
            }
            ComputeState::Configuration => Via::Configuration,
            ComputeState::Init => Via::Init,
            ComputeState::RefreshConfigurationPending => {
                self.step(Event::RefreshReceived);
                Via::Refresh
            }
            ComputeState::RefreshConfiguration => Via::Refresh,
            ComputeState::TerminationPendingFast
            | ComputeState::TerminationPendingImmediate
            | ComputeState::Terminated => {
                self.answer(job, Outcome::Ended);
                return;
            }
        };
        self.begin(job);
    }
}
