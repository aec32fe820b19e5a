//! The one task that owns the machine, the ledger and the server.
//!
//! ```text
//! request ──► admit (ledger durable) ──► job ──► work (polled here) ──► done ──► state, ledger, waiters, next job
//! PostgreSQL ended ──► job that starts it, after a pause that grows          terminate ──► cancel ──► job that stops it
//! refresh ──► fetch (polled here, again and again) ──► admit ──► job         a restart is due ──► watch ──► job
//! ```
//!
//! At most one job runs and at most one waits or is scheduled. A failure of the place (port taken, disk full) is tried
//! again by itself; a failure of the spec is written down as rejected and is not. `boot` begins, `specs` takes specs up,
//! `ends` says what follows from a result, `refresh` asks for specs, `restart` waits for the moment to restart.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::agent::{ComputeState, ErrorDetail, TerminateMode};
use pgfleet_api::{BootId, ComputeId, Lsn};
use pgfleet_clients::retry::Backoff;
use pgfleet_domain::lifecycle::{Event, transition};
use pgfleet_runtime::queue::refuse_rest;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::prove;
use super::body::{Body, Tools};
use super::handle::{Ended, Handle, Outcome, Refusal, Request};
use super::metrics::LifecycleMetrics;
use super::preview::Preview;
use super::publish::Publisher;
use super::refresh::Asking;
use super::restart::Watching;
use super::work::{Done, Order, Prepared, Stop};
use crate::ledger::{Kept, Ledger};

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

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// First and longest pause between tries of a job whose place is at fault, and between starts of a server that dies.
    pub pauses: (Duration, Duration),
    /// First and longest pause between questions for a spec, after the quick ones.
    pub asks: (Duration, Duration),
    /// How long roles and databases of a spec may go on when a newer one waits.
    pub grace: Duration,
    /// How often a server is looked at whose settings wait for a moment without clients.
    pub look_for_idle: Duration,
    /// The same, where nobody waits for that moment.
    pub look: Duration,
    /// How long a terminated compute shows its status.
    pub last_words: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pauses: (Duration::from_millis(100), Duration::from_secs(30)),
            asks: (Duration::from_millis(500), Duration::from_secs(30)),
            grace: Duration::from_secs(1),
            look_for_idle: Duration::from_millis(500),
            look: Duration::from_secs(5),
            last_words: Duration::from_secs(30),
        }
    }
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
    /// How long things take.
    pub pace: Pace,
}

/// Why the driver ends the process.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// `--exit-on-failure`.
    #[error("the compute failed: {0}")]
    Failed(String),
    /// A refresh was answered so.
    #[error("the control plane has no spec for this compute any more: it was detached")]
    Detached,
}

/// By which edges a job's end moves the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// configuration → running or failed.
    Configuration,
    /// init → running or failed.
    Init,
    /// refresh_configuration → running or refresh_configuration_pending.
    Refresh,
    /// A retry while failed: only success moves it.
    Silent,
}

pub(super) struct Job {
    pub(super) order: Order,
    pub(super) via: Via,
    pub(super) kept: Option<Kept>,
    /// The accepted spec when a start or a restart began: a newer one may be accepted before its end.
    pub(super) started_with: Option<Kept>,
    pub(super) waiters: Vec<oneshot::Sender<Outcome>>,
    pub(super) tries: u32,
}

impl Job {
    /// A job that nobody asked for.
    pub(super) const fn own(order: Order, via: Via) -> Self {
        Self { order, via, kept: None, started_with: None, waiters: Vec::new(), tries: 0 }
    }
}

pub(super) struct Running<S> {
    pub(super) job: Job,
    pub(super) stop: Stop,
    pub(super) begun: Instant,
    pub(super) work: Pin<Box<dyn Future<Output = Done<S>> + Send>>,
}

/// The owner. Run it once, as a vital task.
pub struct Driver<B: Body = Tools> {
    pub(super) options: Options,
    pub(super) body: B,
    pub(super) ledger: Ledger,
    pub(super) publisher: Publisher,
    pub(super) metrics: Arc<LifecycleMetrics>,
    requests: mpsc::Receiver<Request>,
    pub(super) state: ComputeState,
    pub(super) server: Option<B::Server>,
    pub(super) server_since: Instant,
    pub(super) running: Option<Running<B::Server>>,
    pub(super) waiting: Option<Job>,
    pub(super) scheduled: Option<(Instant, Job)>,
    /// The accepted spec, and the last good one, as they passed the rules in this life.
    pub(super) accepted: Option<Arc<Prepared>>,
    pub(super) good: Option<Arc<Prepared>>,
    pub(super) asking: Option<Asking>,
    /// A refresh was asked for while PostgreSQL was being started.
    pub(super) refresh_later: bool,
    pub(super) watching: Option<Watching>,
    /// Between tries of a job whose place is at fault.
    pub(super) pauses: Backoff,
    /// Between starts of a server that keeps dying.
    crash_pauses: Backoff,
    pub(super) terminators: Vec<oneshot::Sender<Result<Ended, Refusal>>>,
    /// Where the log of the stopped server ends.
    pub(super) ended_at: Option<Lsn>,
    pub(super) exit_at: Option<Instant>,
    pub(super) failed: Option<DriverError>,
}

impl Driver {
    /// What tells what a spec would do, by what this driver publishes.
    #[must_use]
    pub fn preview(&self) -> Preview {
        Preview::new(self.body.clone(), self.publisher.watch(), self.publisher.watch_record())
    }
}

impl<B: Body> Driver<B> {
    /// A driver that does nothing before it is run, and the handle to it.
    #[must_use]
    pub fn new(options: Options, ledger: Ledger, body: B, metrics: Arc<LifecycleMetrics>) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let publisher = Publisher::new(options.compute_id.clone(), options.boot_id, Arc::clone(&metrics));
        let (promotion, timings) = (body.promotion(), body.timings());
        let handle = Handle::new(sender, publisher.watch(), publisher.watch_spec(), promotion, timings);
        let (base, cap) = options.pace.pauses;
        let driver = Self {
            options,
            body,
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
            accepted: None,
            good: None,
            asking: None,
            refresh_later: false,
            watching: None,
            pauses: Backoff::new(base, cap),
            crash_pauses: Backoff::new(base, cap),
            terminators: Vec::new(),
            ended_at: None,
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
                said = server_ended::<B>(&mut self.server), if idle => self.on_postgres_died(&said),
                () = at(self.scheduled.as_ref().map(|(when, _)| *when)), if idle => {
                    if let Some((_, job)) = self.scheduled.take() {
                        self.begin(job);
                    }
                }
                fetched = Asking::answered(&mut self.asking), if idle => self.on_fetched(fetched).await,
                seen = Watching::seen(&mut self.watching), if idle => self.on_seen(seen).await,
                Some(request) = self.requests.recv() => self.on_request(request).await,
            }
        }
        self.shut_down().await;
        refuse_rest(self.requests).await;
        self.failed.map_or(Ok(()), Err)
    }

    async fn on_request(&mut self, request: Request) {
        // A caller that went away has its request carried out all the same.
        match request {
            Request::Configure { configure, reply } => {
                let answer = self.on_configure(configure).await;
                if let Err(refusal) = &answer {
                    self.metrics.refused(refusal);
                }
                let _ = reply.send(answer);
            }
            Request::Refresh { reply } => {
                let _ = reply.send(self.on_refresh());
            }
            Request::Prove { fence, reply } => {
                let answer = prove(&self.options.compute_id, &mut self.ledger, &fence).await;
                self.publisher.show_ledger(self.ledger.entry());
                // Whoever does not wait for it does not act on it either.
                let _ = reply.send(answer);
            }
            Request::Terminate { mode, reply } => self.on_terminate(mode, reply),
        }
    }

    pub(super) fn begin(&mut self, mut job: Job) {
        self.watching = None;
        match job.order {
            Order::Apply(_) => self.body.timings().spec_taken(),
            Order::Start | Order::Restart => job.started_with.clone_from(&self.ledger.entry().accepted),
            Order::Stop => {}
        }
        let stop = Stop::new(self.options.pace.grace);
        let work = self.body.work(self.server.take(), self.task(&job.order), stop.clone());
        self.running = Some(Running { job, stop, begun: Instant::now(), work: Box::pin(work) });
    }

    fn on_terminate(&mut self, mode: TerminateMode, reply: oneshot::Sender<Result<Ended, Refusal>>) {
        if self.state == ComputeState::Terminated {
            if mode == TerminateMode::Immediate {
                self.exit_at = Some(Instant::now());
            }
            let _ = reply.send(Ok(Ended { lsn: self.ended_at, before: true }));
            return;
        }
        self.terminators.push(reply);
        self.step(Event::TerminateRequested(mode));
        self.asking = None;
        for job in self.waiting.take().into_iter().chain(self.scheduled.take().map(|(_, job)| job)) {
            self.answer(job, Outcome::Ended);
        }
        match &self.running {
            Some(running) => running.stop.end.cancel(),
            None => self.begin_stop(),
        }
    }

    pub(super) fn begin_stop(&mut self) {
        self.begin(Job::own(Order::Stop, Via::Silent));
    }

    fn on_postgres_died(&mut self, said: &str) {
        self.server = None;
        self.watching = None;
        self.body.crashed();
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
                self.scheduled = Some((Instant::now() + pause, Job::own(Order::Start, via)));
            }
            RestartPostgres::Never => {
                let message = format!("PostgreSQL ended by itself ({said}) and --restart-postgres is never");
                self.show_failure(&[ErrorDetail { phase: "run".into(), object: None, sqlstate: None, message }]);
                self.move_to_failed(via);
            }
        }
    }

    async fn shut_down(&mut self) {
        if let Some(Running { job, stop, work, .. }) = self.running.take() {
            stop.end.cancel();
            self.server = work.await.server;
            self.answer(job, Outcome::Ended);
        }
        for job in self.waiting.take().into_iter().chain(self.scheduled.take().map(|(_, job)| job)) {
            self.answer(job, Outcome::Ended);
        }
        if let Some(server) = self.server.take() {
            B::stop(server).await;
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
            Err(refused) => {
                #[cfg(test)]
                panic!("{refused}");
                #[cfg(not(test))]
                tracing::error!("{refused}");
            }
        }
    }
}

async fn work_done<S>(running: &mut Option<Running<S>>) -> Done<S> {
    match running {
        Some(running) => running.work.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn server_ended<B: Body>(server: &mut Option<B::Server>) -> String {
    match server {
        Some(server) => B::ended(server).await,
        None => std::future::pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
