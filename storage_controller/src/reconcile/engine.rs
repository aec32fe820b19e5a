//! The loop: takes what is dirty, runs passes within a limit, and schedules what has to be looked at again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_domain::reconcile::backoff;
use pgfleet_domain::suspend::first_look;
use pgfleet_persistence::LeaderTerm;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::agenda::Agenda;
use super::metrics::PassOutcome;
use super::metrics::Room;
use super::outlook::Outlook;
use super::pass::{Bench, MayAct, Next, run};
use super::quarantine::Admission;
use super::scan::Scan;
use super::waker::Urgency;
use super::{Quarantine, ReconcileMetrics, Waker};
use crate::agents::Agents;
use crate::observe::Snapshot;

/// Limits and pauses of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Passes at once.
    pub concurrency: usize,
    /// First pause after a failure, and while an agent works.
    pub base: Duration,
    /// Longest pause after failures.
    pub failed_cap: Duration,
    /// Longest pause while an agent works.
    pub waiting_cap: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 64,
            base: Duration::from_millis(20),
            failed_cap: Duration::from_secs(10),
            waiting_cap: Duration::from_millis(500),
        }
    }
}

/// One leadership's engine. Dropped with everything it holds when the leadership ends.
pub struct Engine {
    bench: Arc<Bench>,
    waker: Waker,
    settings: Settings,
    metrics: Arc<ReconcileMetrics>,
    outlook: Outlook,
    queue: VecDeque<ComputeId>,
    queued: BTreeSet<ComputeId>,
    running: HashMap<tokio::task::Id, Running>,
    busy: BTreeMap<ComputeId, bool>,
    /// Computes whose last pass failed.
    failing: BTreeMap<ComputeId, Failing>,
    /// Computes whose agents were found at work, and how often in a row.
    waiting: BTreeMap<ComputeId, u32>,
    /// Quarantined computes, and for when each has a timer.
    held: BTreeMap<ComputeId, Instant>,
    timers: BinaryHeap<Reverse<(Instant, ComputeId)>>,
    /// Computes that rest and may be suspended.
    agenda: Agenda,
    scan: Scan,
}

struct Running {
    id: ComputeId,
    begun: Instant,
}

/// How often in a row a compute failed, and when it may be tried again. It always has a timer for that moment.
#[derive(Debug, Clone, Copy)]
struct Failing {
    times: u32,
    not_before: Instant,
}

impl Engine {
    /// An engine for this leadership; it looks at every compute once, in the background, and at what is woken.
    #[must_use]
    pub fn new(
        term: Arc<LeaderTerm>,
        snapshot: Snapshot,
        agents: Agents,
        may_act: MayAct,
        waker: Waker,
        settings: Settings,
        quarantine: Quarantine,
    ) -> Self {
        let metrics = quarantine.metrics();
        Self {
            bench: Arc::new(Bench { term, snapshot, agents, may_act, quarantine }),
            waker,
            settings,
            metrics,
            outlook: Outlook::default(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            running: HashMap::new(),
            busy: BTreeMap::new(),
            failing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            held: BTreeMap::new(),
            timers: BinaryHeap::new(),
            agenda: Agenda::default(),
            scan: Scan::default(),
        }
    }

    /// What this engine is about to do with which compute.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        self.outlook.clone()
    }

    /// Runs until `token` is cancelled; passes in flight are cut then, calls included, and joined.
    ///
    /// # Errors
    /// Never; the type is what a task has.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut passes: JoinSet<Next> = JoinSet::new();
        loop {
            self.start_passes(&mut passes);
            self.metrics.filled(self.queue.len(), self.running.len(), self.failing.len());
            let due = self.timers.peek().map(|Reverse((at, _))| *at).into_iter().chain(self.agenda.due()).min();
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(ended) = passes.join_next_with_id(), if !passes.is_empty() => self.passed(ended),
                () = self.waker.woken() => {
                    for (id, urgency) in self.waker.take() {
                        if urgency == Urgency::Fresh {
                            self.failing.remove(&id);
                            self.waiting.remove(&id);
                        }
                        self.woken(id);
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.timers_due(),
                // Last, and one page at a time: whoever is woken does not wait behind the first look at a large fleet.
                () = tokio::time::sleep_until(self.scan.due()), if !self.scan.is_over() && self.queue.len() < self.settings.concurrency => {
                    self.look_at_page();
                }
            }
        }
        self.metrics.quarantined(0);
        passes.abort_all();
        while let Some(ended) = passes.join_next_with_id().await {
            if let Some(running) = self.forget_running(&ended) {
                self.metrics.passed(PassOutcome::Cancelled, running.begun.elapsed());
            }
        }
        Ok(())
    }

    fn look_at_page(&mut self) {
        let (needy, resting) = self.scan.next(&self.bench.snapshot);
        for id in needy {
            self.woken(id);
        }
        let now = Instant::now();
        for (id, timeout) in resting {
            self.agenda.set(id, now + first_look(timeout, rand::random::<f64>()));
        }
    }

    fn start_passes(&mut self, passes: &mut JoinSet<Next>) {
        while self.running.len() < self.settings.concurrency {
            let Some(id) = self.queue.pop_front() else { return };
            self.queued.remove(&id);
            let is_try = match self.bench.quarantine.admit(&id) {
                Admission::Go => {
                    self.held.remove(&id);
                    false
                }
                Admission::Try { next } => {
                    self.hold(&id, next);
                    true
                }
                Admission::Wait { until } => {
                    self.outlook.rests(&id);
                    self.hold(&id, until);
                    continue;
                }
            };
            self.outlook.working(&id);
            let handle = passes.spawn(watched(self.bench.clone(), id.clone(), is_try));
            self.busy.insert(id.clone(), false);
            self.running.insert(handle.id(), Running { id, begun: Instant::now() });
        }
    }

    /// A quarantined compute has one timer, however often it is woken.
    fn hold(&mut self, id: &ComputeId, until: Instant) {
        if self.held.insert(id.clone(), until) != Some(until) {
            self.timers.push(Reverse((until, id.clone())));
        }
    }

    /// A compute whose pass is under way is looked at again afterwards; one that backs off waits for its time.
    fn woken(&mut self, id: ComputeId) {
        if let Some(again) = self.busy.get_mut(&id) {
            *again = true;
            return;
        }
        if self.failing.get(&id).is_none_or(|failing| failing.not_before <= Instant::now()) {
            self.enqueue(id);
        }
    }

    fn timers_due(&mut self) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, id))) = self.timers.pop() {
                self.woken(id);
            }
        }
        while let Some(id) = self.agenda.take_due(now) {
            self.woken(id);
        }
    }

    fn enqueue(&mut self, id: ComputeId) {
        if self.queued.insert(id.clone()) {
            self.outlook.queued(&id);
            self.queue.push_back(id);
        }
    }

    fn forget_running(&mut self, ended: &Result<(tokio::task::Id, Next), tokio::task::JoinError>) -> Option<Running> {
        let task = match ended {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        self.running.remove(&task)
    }

    fn passed(&mut self, ended: Result<(tokio::task::Id, Next), tokio::task::JoinError>) {
        let Some(Running { id, begun }) = self.forget_running(&ended) else { return };
        let again = self.busy.remove(&id).unwrap_or(false);
        let (next, outcome) = match ended {
            Ok((_, next @ (Next::Rest | Next::Later(_)))) => (next, PassOutcome::Rest),
            Ok((_, next @ Next::Suspended)) => (next, PassOutcome::Suspended),
            Ok((_, next @ Next::Pushed)) => (next, PassOutcome::Pushed),
            Ok((_, next @ Next::Waiting)) => (next, PassOutcome::Waiting),
            Ok((_, next @ Next::Failed)) => (next, PassOutcome::Failed),
            Ok((_, next @ Next::Panicked)) => (next, PassOutcome::Panic),
            Err(error) => {
                tracing::error!(compute_id = %id, %error, "a pass broke; the compute is tried again with back-off");
                (Next::Panicked, PassOutcome::Panic)
            }
        };
        self.metrics.passed(outcome, begun.elapsed());
        self.schedule(id.clone(), next);
        if again {
            self.woken(id);
        }
    }

    fn schedule(&mut self, id: ComputeId, next: Next) {
        let (base, jitter, now) = (self.settings.base, rand::random::<f64>(), Instant::now());
        // Of either kind only what happened last counts.
        let failed = self.failing.remove(&id).map_or(0, |failing| failing.times);
        let waited = self.waiting.remove(&id).unwrap_or(0);
        self.agenda.remove(&id);
        let at = match next {
            Next::Rest | Next::Suspended => return self.outlook.rests(&id),
            Next::Later(pause) => {
                self.outlook.rests(&id);
                return self.agenda.set(id, now + pause);
            }
            Next::Pushed => {
                self.outlook.waits(&id, now + base);
                now + base
            }
            Next::Waiting => {
                self.waiting.insert(id.clone(), waited + 1);
                let at = now + backoff(waited, base, self.settings.waiting_cap, jitter);
                self.outlook.waits(&id, at);
                at
            }
            Next::Failed | Next::Panicked => {
                let not_before = now + backoff(failed, base * 5, self.settings.failed_cap, jitter);
                self.failing.insert(id.clone(), Failing { times: failed + 1, not_before });
                self.outlook.failed(&id, failed + 1, not_before);
                not_before
            }
        };
        self.timers.push(Reverse((at, id)));
    }
}

/// A pass that keeps its panic to itself.
async fn watched(bench: Arc<Bench>, id: ComputeId, is_try: bool) -> Next {
    let span = tracing::info_span!(
        target: "spans::reconcile",
        parent: None,
        "reconcile_pass",
        compute_id = %id,
        term = bench.term.term().get(),
        generation = Empty,
        outcome = Empty,
    );
    let pass = Box::pin(bench.quarantine.watch(Room::Reconcile, &id, run(&bench, &id, is_try)));
    let next = pass.instrument(span.clone()).await.unwrap_or(Next::Panicked);
    span.record("outcome", tracing::field::debug(next));
    next
}
