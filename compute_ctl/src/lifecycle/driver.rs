//! The one task that owns the machine, the ledger and the server.
//!
//! ```text
//! request ──► admit (ledger durable) ──► job ──► work (polled here) ──► done ──► state, ledger, waiters, next job
//! PostgreSQL ended ──► job that starts it, after a pause that grows          terminate ──► cancel ──► job that stops it
//! ```
//!
//! At most one job runs and at most one waits or is scheduled. A failure of the place (port taken, disk full) is tried
//! again by itself; a failure of the spec is written down as rejected and is not.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use pgfleet_api::agent::{ComputeState, ErrorDetail, TerminateMode};
use pgfleet_api::{BootId, ComputeId};
use pgfleet_clients::retry::Backoff;
use pgfleet_domain::lifecycle::{Event, transition};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::{Decision, admit, prepare};
use super::handle::{Admitted, Configure, Handle, Origin, Outcome, Refusal, Request};
use super::metrics::{ConfigureOutcome, LifecycleMetrics};
use super::publish::Publisher;
use super::work::{self, Done, Effect, Failure, Order, Prepared, Tools};
use crate::apply::ApplyMetrics;
use crate::ledger::{Entry, Kept, Ledger};
use crate::postgres::{Postgres, Server};

/// Requests that may wait for the driver.
const QUEUE: usize = 64;
/// Tries of a job whose place is at fault, before the compute counts as failed.
const TRIES: u32 = 5;
/// How long a terminated compute shows its status.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// A server that ran this long before it died begins with the shortest pause again.
const STEADY: Duration = Duration::from_secs(60);

/// What to do when PostgreSQL ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RestartPostgres {
    /// Fail.
    Never,
    /// Start it again, after a pause that grows.
    OnCrash,
}

/// How the driver behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The compute.
    pub compute_id: ComputeId,
    /// This life of the agent.
    pub boot_id: BootId,
    /// A spec given at start.
    pub spec: Option<Value>,
    /// What to do when PostgreSQL ends by itself.
    pub restart_postgres: RestartPostgres,
    /// End the process when the compute fails.
    pub exit_on_failure: bool,
}

/// Why the driver ends the process.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// `--exit-on-failure`.
    #[error("the compute failed: {0}")]
    Failed(String),
}

/// By which edges a job's end moves the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// configuration → running or failed.
    Configuration,
    /// init → running or failed.
    Init,
    /// A retry while failed: only success moves it.
    Silent,
}

struct Job {
    order: Order,
    via: Via,
    kept: Option<Kept>,
    waiters: Vec<oneshot::Sender<Outcome>>,
    tries: u32,
}

struct Running {
    job: Job,
    cancel: CancellationToken,
    begun: Instant,
    work: Pin<Box<dyn Future<Output = Done> + Send>>,
}

/// The owner. Run it once, as a vital task.
pub struct Driver {
    options: Options,
    tools: Tools,
    ledger: Ledger,
    publisher: Publisher,
    metrics: Arc<LifecycleMetrics>,
    requests: mpsc::Receiver<Request>,
    state: ComputeState,
    server: Option<Server>,
    server_since: Instant,
    running: Option<Running>,
    waiting: Option<Job>,
    scheduled: Option<(Instant, Job)>,
    pauses: Backoff,
    terminators: Vec<oneshot::Sender<Result<(), Refusal>>>,
    exit_at: Option<Instant>,
    failed: Option<DriverError>,
}

impl Driver {
    /// A driver that does nothing before it is run, and the handle to it.
    #[must_use]
    pub fn new(
        options: Options,
        ledger: Ledger,
        postgres: Postgres,
        metrics: (Arc<LifecycleMetrics>, Arc<ApplyMetrics>),
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let (metrics, apply_metrics) = metrics;
        let publisher = Publisher::new(options.compute_id.clone(), options.boot_id, Arc::clone(&metrics));
        let handle = Handle::new(sender, publisher.watch());
        let tools = Tools { postgres, compute_id: options.compute_id.clone(), metrics: apply_metrics };
        let driver = Self {
            options,
            tools,
            ledger,
            publisher,
            metrics,
            requests,
            state: ComputeState::Empty,
            server: None,
            server_since: Instant::now(),
            running: None,
            waiting: None,
            scheduled: None,
            pauses: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
            terminators: Vec::new(),
            exit_at: None,
            failed: None,
        };
        (driver, handle)
    }

    /// Drives until `stop` is cancelled, or the compute has ended; then `stop` is cancelled by the driver.
    ///
    /// # Errors
    /// The compute failed and the process is to end because of it.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), DriverError> {
        self.publisher.show_ledger(self.ledger.entry());
        self.begin_with_what_is_known().await;
        while self.failed.is_none() {
            let idle = self.running.is_none();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                done = work_done(&mut self.running) => self.on_done(done).await,
                () = at(self.exit_at) => {
                    stop.cancel();
                    break;
                }
                said = server_ended(&mut self.server), if idle => self.on_postgres_died(&said),
                () = at(self.scheduled.as_ref().map(|(when, _)| *when)), if idle => {
                    if let Some((_, job)) = self.scheduled.take() {
                        self.begin(job);
                    }
                }
                Some(request) = self.requests.recv() => self.on_request(request).await,
            }
        }
        self.shut_down().await;
        self.failed.map_or(Ok(()), Err)
    }

    /// A spec from the command line, or the one the ledger has.
    async fn begin_with_what_is_known(&mut self) {
        let entry = self.ledger.entry().clone();
        if let Some(spec) = self.options.spec.take() {
            if entry.record.is_none() {
                self.step(Event::StartRequested);
                let configure = Configure { spec, fence: None, origin: Origin::File };
                match admit(&self.tools, &mut self.ledger, &configure, false).await {
                    Ok(Decision::Take(prepared)) => self.begin_at_start(prepared, self.ledger.entry().accepted.clone()),
                    Ok(Decision::Repeated) => {}
                    Err(refusal) => self.fail_at_start(&refusal),
                }
                return;
            }
            tracing::warn!("the spec given at start is ignored: the ledger holds a fenced one");
        }
        let kept = if entry.rejected { entry.good.or(entry.accepted) } else { entry.accepted };
        let Some(kept) = kept else { return };
        self.step(Event::StartRequested);
        if entry.rejected && self.ledger.entry().good.is_none() {
            self.begin(Job { order: Order::Start, via: Via::Init, kept: None, waiters: Vec::new(), tries: 0 });
            return;
        }
        match prepare(&self.tools, &kept.spec, false).await {
            Ok(prepared) => self.begin_at_start(prepared, Some(kept)),
            Err(refusal) => self.fail_at_start(&refusal),
        }
    }

    fn begin_at_start(&mut self, prepared: Arc<Prepared>, kept: Option<Kept>) {
        self.publisher.show_ledger(self.ledger.entry());
        self.publisher.update(|status| status.ignored_fields.clone_from(&prepared.ignored_fields));
        self.begin(Job { order: Order::Apply(prepared), via: Via::Init, kept, waiters: Vec::new(), tries: 0 });
    }

    fn fail_at_start(&mut self, refusal: &Refusal) {
        let (object, message) = match refusal {
            Refusal::Content { path, msg } => (Some(path.clone()), msg.clone()),
            other => (None, format!("{other:?}")),
        };
        self.show_failure(&ErrorDetail { phase: "spec".into(), object, sqlstate: None, message });
        self.step(Event::StartFailed);
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Configure { configure, reply } => {
                let answer = self.on_configure(configure).await;
                if let Err(refusal) = &answer {
                    self.metrics.refused(refusal);
                }
                // A caller that went away has its spec applied all the same.
                let _ = reply.send(answer);
            }
            Request::Terminate { mode, reply } => self.on_terminate(mode, reply),
        }
    }

    async fn on_configure(&mut self, configure: Configure) -> Result<Admitted, Refusal> {
        if transition(self.state, Event::SpecAccepted).is_err() {
            return Err(Refusal::Ending(self.state));
        }
        let decision = admit(&self.tools, &mut self.ledger, &configure, self.server.is_some()).await;
        self.publisher.show_ledger(self.ledger.entry());
        match decision? {
            Decision::Repeated => Ok(Admitted { outcome: self.join_job(&configure) }),
            Decision::Take(prepared) => {
                let (waiter, outcome) = oneshot::channel();
                self.publisher.update(|status| {
                    status.ignored_fields.clone_from(&prepared.ignored_fields);
                    if self.state == ComputeState::Empty {
                        status.start_time = Utc::now();
                    }
                });
                let kept = self.ledger.entry().accepted.clone();
                self.take_up(Job {
                    order: Order::Apply(prepared),
                    via: Via::Configuration,
                    kept,
                    waiters: vec![waiter],
                    tries: 0,
                });
                Ok(Admitted { outcome: Some(outcome) })
            }
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

    /// Begins a new job, or lets it wait in the place of an earlier one.
    fn take_up(&mut self, mut job: Job) {
        self.step(Event::SpecAccepted);
        if self.running.is_some() {
            if let Some(replaced) = self.waiting.replace(job) {
                self.answer(replaced, Outcome::Superseded);
            }
            return;
        }
        if let Some((_, replaced)) = self.scheduled.take() {
            if replaced.via != Via::Silent {
                // The machine is in the middle of the earlier job, so the new one ends it.
                job.via = replaced.via;
            }
            self.answer(replaced, Outcome::Superseded);
        }
        self.begin(job);
    }

    fn begin(&mut self, job: Job) {
        if job.via == Via::Configuration && self.state == ComputeState::ConfigurationPending {
            self.step(Event::ApplyStarted);
        }
        let cancel = CancellationToken::new();
        let work = work::run(self.tools.clone(), self.server.take(), job.order.clone(), cancel.clone());
        self.running = Some(Running { job, cancel, begun: Instant::now(), work: Box::pin(work) });
    }

    fn on_terminate(&mut self, mode: TerminateMode, reply: oneshot::Sender<Result<(), Refusal>>) {
        if self.state == ComputeState::Terminated {
            if mode == TerminateMode::Immediate {
                self.exit_at = Some(Instant::now());
            }
            let _ = reply.send(Err(Refusal::Ending(self.state)));
            return;
        }
        self.terminators.push(reply);
        self.step(Event::TerminateRequested(mode));
        for job in self.waiting.take().into_iter().chain(self.scheduled.take().map(|(_, job)| job)) {
            self.answer(job, Outcome::Ended);
        }
        match &self.running {
            Some(running) => running.cancel.cancel(),
            None => self.begin_stop(),
        }
    }

    fn begin_stop(&mut self) {
        self.begin(Job { order: Order::Stop, via: Via::Silent, kept: None, waiters: Vec::new(), tries: 0 });
    }

    fn on_postgres_died(&mut self, said: &str) {
        self.server = None;
        self.tools.postgres.metrics().crashed();
        self.publisher.update(|status| status.postgres = None);
        if self.server_since.elapsed() > STEADY {
            self.pauses.reset();
        }
        let was = self.state;
        self.step(Event::PostgresDied);
        let via = if was == ComputeState::Running { Via::Init } else { Via::Silent };
        match self.options.restart_postgres {
            RestartPostgres::OnCrash => {
                let pause = self.pauses.next_pause();
                tracing::error!(pause_ms = pause.as_millis(), "PostgreSQL ended by itself ({said}): starting it again");
                let job = Job { order: Order::Start, via, kept: None, waiters: Vec::new(), tries: 0 };
                self.scheduled = Some((Instant::now() + pause, job));
            }
            RestartPostgres::Never => {
                let message = format!("PostgreSQL ended by itself ({said}) and --restart-postgres is never");
                self.show_failure(&ErrorDetail { phase: "run".into(), object: None, sqlstate: None, message });
                if via == Via::Init {
                    self.step(Event::StartFailed);
                }
            }
        }
    }

    async fn on_done(&mut self, done: Done) {
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
            Err(Failure::Spec(detail, effect)) => self.rejected(job, &detail, effect).await,
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
        if matches!(job.order, Order::Apply(_)) {
            let entry = self.ledger.entry().clone();
            let rejected = entry.rejected && entry.accepted != job.kept;
            self.write_down(Entry { good: job.kept.clone(), rejected, ..entry }).await;
        }
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
            Via::Silent if self.state == ComputeState::Failed && !self.ledger.entry().rejected => {
                self.step(Event::SpecAccepted);
                self.step(Event::ApplyStarted);
                self.run_on(Event::ApplySucceeded);
            }
            Via::Silent => {}
        }
        self.answer(job, Outcome::Applied);
    }

    fn run_on(&mut self, event: Event) {
        self.publisher.update(|status| {
            status.error = None;
            status.error_detail = None;
        });
        self.step(event);
    }

    async fn rejected(&mut self, job: Job, detail: &ErrorDetail, effect: Effect) {
        let entry = self.ledger.entry().clone();
        let rejected_generation = job.kept.as_ref().and_then(|kept| kept.generation).or(entry.rejected_generation);
        // A crash may show that a configuration, taken before, does not start: then the accepted spec is at fault.
        self.write_down(Entry { rejected: true, rejected_generation, ..entry }).await;
        self.publisher.update(|status| {
            status.postgres = effect.postgres;
            status.pending_restart = effect.pending_restart;
        });
        self.show_failure(detail);
        self.step_down(job.via);
        self.answer(job, Outcome::Failed);
    }

    fn hindered(&mut self, mut job: Job, detail: &ErrorDetail) {
        job.tries += 1;
        let pause = self.pauses.next_pause();
        if job.tries >= TRIES && job.via != Via::Silent {
            self.show_failure(detail);
            self.step_down(job.via);
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

    fn step_down(&mut self, via: Via) {
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
        let wait = match self.state {
            ComputeState::TerminationPendingImmediate => Duration::ZERO,
            _ => LAST_WORDS,
        };
        self.publisher.update(|status| status.postgres = None);
        self.step(Event::PostgresStopped);
        self.exit_at = Some(Instant::now() + wait);
        for reply in self.terminators.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    async fn shut_down(&mut self) {
        if let Some(Running { job, cancel, work, .. }) = self.running.take() {
            cancel.cancel();
            self.server = work.await.server;
            self.answer(job, Outcome::Ended);
        }
        for job in self.waiting.take().into_iter().chain(self.scheduled.take().map(|(_, job)| job)) {
            self.answer(job, Outcome::Ended);
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// The ledger after the fact: what it lacks is done again after a restart, so a failure is logged and no more.
    async fn write_down(&mut self, entry: Entry) {
        if let Err(error) = self.ledger.keep(entry).await {
            tracing::error!("{}", pgfleet_runtime::exit::chain(&error));
        }
        self.publisher.show_ledger(self.ledger.entry());
    }

    fn show_failure(&self, detail: &ErrorDetail) {
        let object = detail.object.as_ref().map(|object| format!(" {object:?}")).unwrap_or_default();
        let line = format!("{}{object}: {}", detail.phase, detail.message);
        tracing::error!(phase = detail.phase, object = detail.object, sqlstate = detail.sqlstate, "{line}");
        self.publisher.update(|status| {
            status.error = Some(line);
            status.error_detail = Some(detail.clone());
        });
    }

    fn answer(&self, job: Job, outcome: Outcome) {
        if job.kept.is_some() {
            self.metrics.ended(outcome.into());
        }
        for waiter in job.waiters {
            // A caller that went away does not mind.
            let _ = waiter.send(outcome);
        }
    }

    /// Moves the machine. An edge that is not there is a defect of the driver: it is logged and nothing moves.
    fn step(&mut self, event: Event) {
        match transition(self.state, event) {
            Ok(next) => {
                if next != self.state {
                    tracing::info!(compute_id = %self.options.compute_id, from = self.state.as_str(), to = next.as_str(), "state");
                }
                self.state = next;
                self.publisher.update(|status| status.status = next);
            }
            Err(refused) => tracing::error!("{refused}"),
        }
    }
}

async fn work_done(running: &mut Option<Running>) -> Done {
    match running {
        Some(running) => running.work.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn server_ended(server: &mut Option<Server>) -> String {
    match server {
        Some(server) => server.ended().await,
        None => std::future::pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
