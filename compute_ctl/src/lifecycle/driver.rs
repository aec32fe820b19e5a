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
use super::timings::Timings;
use super::work::{self, Done, Order, Prepared, Tools};
use crate::apply::ApplyMetrics;
use crate::ledger::{Kept, Ledger};
use crate::postgres::{Postgres, Server};

/// Requests that may wait for the driver.
const QUEUE: usize = 64;
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
pub(super) enum Via {
    /// configuration → running or failed.
    Configuration,
    /// init → running or failed.
    Init,
    /// A retry while failed: only success moves it.
    Silent,
}

pub(super) struct Job {
    pub(super) order: Order,
    pub(super) via: Via,
    pub(super) kept: Option<Kept>,
    pub(super) waiters: Vec<oneshot::Sender<Outcome>>,
    pub(super) tries: u32,
}

pub(super) struct Running {
    pub(super) job: Job,
    cancel: CancellationToken,
    pub(super) begun: Instant,
    work: Pin<Box<dyn Future<Output = Done> + Send>>,
}

/// The owner. Run it once, as a vital task.
pub struct Driver {
    pub(super) options: Options,
    pub(super) tools: Tools,
    pub(super) ledger: Ledger,
    pub(super) publisher: Publisher,
    pub(super) metrics: Arc<LifecycleMetrics>,
    requests: mpsc::Receiver<Request>,
    pub(super) state: ComputeState,
    pub(super) server: Option<Server>,
    pub(super) server_since: Instant,
    pub(super) running: Option<Running>,
    pub(super) waiting: Option<Job>,
    pub(super) scheduled: Option<(Instant, Job)>,
    /// Between tries of a job whose place is at fault.
    pub(super) pauses: Backoff,
    /// Between starts of a server that keeps dying.
    crash_pauses: Backoff,
    pub(super) terminators: Vec<oneshot::Sender<Result<(), Refusal>>>,
    pub(super) exit_at: Option<Instant>,
    pub(super) failed: Option<DriverError>,
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
        let timings = Timings::default();
        let handle = Handle::new(sender, publisher.watch(), timings.clone());
        let tools = Tools { postgres, compute_id: options.compute_id.clone(), metrics: apply_metrics, timings };
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
            crash_pauses: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
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

    pub(super) fn begin(&mut self, job: Job) {
        if job.via == Via::Configuration && self.state == ComputeState::ConfigurationPending {
            self.step(Event::ApplyStarted);
        }
        if matches!(job.order, Order::Apply(_)) {
            self.tools.timings.spec_taken();
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

    pub(super) fn begin_stop(&mut self) {
        self.begin(Job { order: Order::Stop, via: Via::Silent, kept: None, waiters: Vec::new(), tries: 0 });
    }

    fn on_postgres_died(&mut self, said: &str) {
        self.server = None;
        self.tools.postgres.metrics().crashed();
        self.publisher.update(|status| status.postgres = None);
        if self.server_since.elapsed() > STEADY {
            self.crash_pauses.reset();
        }
        let was = self.state;
        self.step(Event::PostgresDied);
        if self.scheduled.is_some() {
            // A job that is to be tried again starts the server by itself.
            return;
        }
        let via = if was == ComputeState::Running { Via::Init } else { Via::Silent };
        match self.options.restart_postgres {
            RestartPostgres::OnCrash => {
                let pause = self.crash_pauses.next_pause();
                tracing::error!(pause_ms = pause.as_millis(), "PostgreSQL ended by itself ({said}): starting it again");
                let job = Job { order: Order::Start, via, kept: None, waiters: Vec::new(), tries: 0 };
                self.scheduled = Some((Instant::now() + pause, job));
            }
            RestartPostgres::Never => {
                let message = format!("PostgreSQL ended by itself ({said}) and --restart-postgres is never");
                self.show_failure(&ErrorDetail { phase: "run".into(), object: None, sqlstate: None, message });
                self.move_to_failed(via);
            }
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

    /// Moves the machine. An edge that is not there is a defect of the driver: it is logged and nothing moves.
    pub(super) fn step(&mut self, event: Event) {
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
