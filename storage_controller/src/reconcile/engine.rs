//! The loop: takes what is dirty in fair order, runs passes within limits, and schedules what has to be looked at again.
//!
//! Its cost grows with what is dirty. A pass begins when it has a place among all passes, a place at its agent's host and,
//! if the agent was not heard yet and no owner waits, a token of the connect budget; whoever waits for one of the latter
//! two takes no place. When many calls to agents that seemed to be there were in vain, even an owner's waits. An agent that
//! does not answer is left to the prober, which wakes the engine with its first answer.
//! Each compute has at most one timer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_domain::agenda::Agenda;
use pgfleet_domain::places::{Limits, Places};
use pgfleet_domain::reconcile::backoff;
use pgfleet_domain::suspend::first_look;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::metrics::{Fill, PassOutcome, Room};
use super::outlook::Outlook;
use super::pass::{Bench, Next, asks, run};
use super::quarantine::Admission;
use super::queue::{Gate, Priority, Queue, Taken, host};
use super::scan::Scan;
use super::waker::Urgency;
use super::{ReconcileMetrics, Waker};
use crate::observe::Contact;

/// Passes that have waited for the connect budget and are looked at again together.
const LET_IN: usize = 32;

/// Limits and pauses of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Passes at once.
    pub concurrency: usize,
    /// Of them at one host.
    pub per_host: usize,
    /// A pass that takes longer gives its place to another.
    pub slow_after: Duration,
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
            concurrency: 128,
            per_host: 16,
            slow_after: Duration::from_millis(250),
            base: Duration::from_millis(20),
            failed_cap: Duration::from_secs(10),
            waiting_cap: Duration::from_millis(500),
        }
    }
}

impl Settings {
    /// Of the slow ones there may be more than of all others: what they wait for costs nothing here.
    const fn limits(&self) -> Limits {
        Limits { limit: self.concurrency, slow_limit: self.concurrency * 4, slow_after: self.slow_after }
    }

    /// Calls that passes may have under way.
    #[must_use]
    pub const fn calls(&self) -> usize {
        self.concurrency * 5
    }
}

/// One leadership's engine. Dropped with everything it holds when the leadership ends.
pub struct Engine {
    bench: Arc<Bench>,
    waker: Waker,
    settings: Settings,
    metrics: Arc<ReconcileMetrics>,
    outlook: Outlook,
    queue: Queue,
    places: Places<Id, Instant>,
    running: HashMap<Id, Running>,
    /// Computes whose pass is under way, and how urgently they are to be looked at again afterwards.
    busy: BTreeMap<ComputeId, Option<Priority>>,
    /// Computes whose last pass failed.
    failing: BTreeMap<ComputeId, Failing>,
    /// Computes whose agents work on what they were handed, and how often in a row they were found at it.
    waiting: BTreeMap<ComputeId, u32>,
    /// Computes whose agents do not answer and whose owners want something new.
    wanted: HashSet<ComputeId>,
    /// When computes are looked at again.
    timers: Agenda<ComputeId, Instant>,
    /// No token of the connect budget before.
    budget_at: Option<Instant>,
    scan: Scan,
}

struct Running {
    id: ComputeId,
    begun: Instant,
    host: Arc<str>,
    /// The next try, if this is one of a quarantined compute.
    next_try: Option<Instant>,
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
    pub fn new(bench: Bench, waker: Waker, settings: Settings) -> Self {
        Self {
            metrics: bench.quarantine.metrics(),
            bench: Arc::new(bench),
            waker,
            settings,
            outlook: Outlook::default(),
            queue: Queue::new(settings.per_host),
            places: Places::new(settings.limits()),
            running: HashMap::new(),
            busy: BTreeMap::new(),
            failing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            wanted: HashSet::new(),
            timers: Agenda::default(),
            budget_at: None,
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
            self.metrics.filled(&self.fill());
            let due = self.due();
            let scans = !self.scan.is_over() && self.queue.open() < self.settings.concurrency;
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(ended) = passes.join_next_with_id(), if !passes.is_empty() => self.passed(ended),
                () = self.waker.woken() => self.take_wakes(),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.timers_due(),
                // Last, and one page at a time: whoever is woken does not wait behind the first look at a large fleet.
                () = tokio::time::sleep_until(self.scan.due()), if scans => self.look_at_page(),
            }
        }
        self.metrics.left();
        passes.abort_all();
        while let Some(ended) = passes.join_next_with_id().await {
            if let Some(running) = self.running.remove(&task_of(&ended)) {
                self.metrics.passed(PassOutcome::Cancelled, running.begun.elapsed());
            }
        }
        Ok(())
    }

    fn fill(&self) -> Fill {
        Fill {
            queued: self.queue.counts(),
            in_flight: self.places.running(),
            slow: self.places.slow(),
            backing_off: self.failing.len(),
            at_hosts: self.queue.waiting_at_hosts(),
        }
    }

    fn take_wakes(&mut self) {
        for (id, urgency) in self.waker.take() {
            let priority = match urgency {
                Urgency::Fresh => {
                    self.failing.remove(&id);
                    self.waiting.remove(&id);
                    Priority::Change
                }
                Urgency::Patient if self.wanted.contains(&id) => Priority::Change,
                Urgency::Patient => Priority::Drift,
            };
            self.woken(id, priority);
        }
    }

    fn look_at_page(&mut self) {
        let page = self.scan.next(&self.bench.snapshot);
        for (id, priority) in page.needy {
            self.woken(id, priority);
        }
        let now = Instant::now();
        for (id, timeout) in page.resting {
            self.timers.set_earlier(id, now + first_look(timeout, rand::random::<f64>()));
        }
    }

    /// When something is due that nothing else wakes for.
    fn due(&self) -> Option<Instant> {
        let budget = self.budget_at.filter(|_| self.queue.waits_at(&Gate::Budget));
        let ripe = self.places.ripens().filter(|_| self.queue.open() > 0);
        self.timers.due().into_iter().chain(budget).chain(ripe).min()
    }

    fn start_passes(&mut self, passes: &mut JoinSet<Next>) {
        let now = Instant::now();
        while self.places.is_free(now) {
            // However many repairs hang, there are places for changes.
            let only_changes = self.places.running() >= self.settings.limits().slow_limit;
            let Some(taken) = self.queue.pop(only_changes) else { return };
            self.start_pass(taken, passes, now);
        }
    }

    fn start_pass(&mut self, taken: Taken, passes: &mut JoinSet<Next>, now: Instant) {
        let id = taken.id.clone();
        let Some(entry) = self.bench.snapshot.get(&id) else {
            self.forget(&id);
            return self.queue.drop_taken(&taken);
        };
        let next_try = match self.bench.quarantine.admit(&id) {
            Admission::Go => None,
            Admission::Try { next } => Some(next),
            Admission::Wait { until } => {
                self.outlook.rests(&id);
                self.timers.set(id, until);
                return self.queue.drop_taken(&taken);
            }
        };
        match self.bench.presence.contact(&id) {
            // The try of a quarantined compute waits for nothing: it is the only one for long, and used up by now. Nor does
            // a pass for which no agent is needed.
            _ if next_try.is_some() || !asks(&entry) => {}
            Contact::Silent => {
                self.outlook.rests(&id);
                if taken.priority == Priority::Change {
                    self.wanted.insert(id.clone());
                    self.bench.hints.wanted(id);
                }
                return self.queue.drop_taken(&taken);
            }
            Contact::Unheard if taken.priority != Priority::Change => {
                if let Err(wait) = self.bench.presence.take_connect() {
                    return self.park_for_budget(taken, now, wait);
                }
            }
            Contact::Unheard | Contact::Answers => {
                let url = &entry.record.agent_url;
                if let Some(wait) = self.bench.presence.has_to_wait(&id, || self.bench.agents.is_connected(url)) {
                    return self.park_for_budget(taken, now, wait);
                }
            }
        }
        let host = host(&entry.record.agent_url);
        if !self.queue.enter(&taken, &host, next_try.is_some()) {
            self.metrics.waited_for_host();
            return self.queue.park(taken, Gate::Host(host));
        }
        self.wanted.remove(&id);
        self.timers.remove(&id);
        self.outlook.working(&id);
        let handle = passes.spawn(watched(self.bench.clone(), id.clone(), next_try.is_some()));
        self.busy.insert(id.clone(), None);
        self.places.begin(handle.id(), now);
        self.running.insert(handle.id(), Running { id, begun: now, host, next_try });
    }

    fn park_for_budget(&mut self, taken: Taken, now: Instant, wait: Duration) {
        self.metrics.waited_for_budget();
        self.budget_at = Some(self.budget_at.filter(|at| *at > now).unwrap_or(now + wait));
        self.queue.park(taken, Gate::Budget);
    }

    fn forget(&mut self, id: &ComputeId) {
        self.outlook.rests(id);
        self.failing.remove(id);
        self.waiting.remove(id);
        self.wanted.remove(id);
        self.timers.remove(id);
    }

    /// A compute whose pass is under way is looked at again afterwards; one that backs off waits for its time.
    fn woken(&mut self, id: ComputeId, priority: Priority) {
        if let Some(again) = self.busy.get_mut(&id) {
            *again = Some(priority).max(*again);
            return;
        }
        if self.failing.get(&id).is_none_or(|failing| failing.not_before <= Instant::now()) {
            self.outlook.queued(&id);
            self.queue.push(id, priority);
        }
    }

    fn timers_due(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.timers.take_due(now) {
            let priority = if self.failing.contains_key(&id) {
                Priority::Repair
            } else if self.waiting.contains_key(&id) {
                Priority::Change
            } else {
                Priority::Drift
            };
            self.woken(id, priority);
        }
        if self.budget_at.is_some_and(|at| at <= now) {
            self.budget_at = None;
            let let_in = (0..LET_IN).take_while(|_| self.queue.let_in(&Gate::Budget)).count();
            if let_in == LET_IN {
                self.budget_at = Some(now + Duration::from_millis(1));
            }
        }
    }

    fn passed(&mut self, ended: Result<(Id, Next), JoinError>) {
        let task = task_of(&ended);
        let Some(Running { id, begun, host, next_try }) = self.running.remove(&task) else { return };
        self.places.end(&task);
        self.queue.leave(&host);
        let again = self.busy.remove(&id).flatten();
        let (next, outcome) = match ended {
            Ok((_, next @ (Next::Rest | Next::Later(_)))) => (next, PassOutcome::Rest),
            Ok((_, next @ Next::Suspended)) => (next, PassOutcome::Suspended),
            Ok((_, next @ Next::Pushed)) => (next, PassOutcome::Pushed),
            Ok((_, next @ Next::Waiting)) => (next, PassOutcome::Waiting),
            Ok((_, next @ (Next::Failed | Next::Silent))) => (next, PassOutcome::Failed),
            Ok((_, next @ Next::Panicked)) => (next, PassOutcome::Panic),
            Err(error) => {
                tracing::error!(compute_id = %id, %error, "a pass broke; the compute is tried again with back-off");
                (Next::Panicked, PassOutcome::Panic)
            }
        };
        self.metrics.passed(outcome, begun.elapsed());
        self.schedule(&id, next);
        if let Some(at) = next_try {
            self.timers.set_earlier(id.clone(), at);
        }
        if let Some(priority) = again {
            self.woken(id, priority);
        }
    }

    fn schedule(&mut self, id: &ComputeId, next: Next) {
        let (base, jitter, now) = (self.settings.base, rand::random::<f64>(), Instant::now());
        // Of either kind only what happened last counts.
        let failed = self.failing.remove(id).map_or(0, |failing| failing.times);
        let waited = self.waiting.remove(id).unwrap_or(0);
        let at = match next {
            Next::Rest | Next::Suspended | Next::Silent => return self.outlook.rests(id),
            Next::Later(pause) => {
                self.outlook.rests(id);
                now + pause
            }
            Next::Pushed => {
                self.outlook.waits(id, now + base);
                self.waiting.insert(id.clone(), 0);
                now + base
            }
            Next::Waiting => {
                self.waiting.insert(id.clone(), waited + 1);
                let at = now + backoff(waited, base, self.settings.waiting_cap, jitter);
                self.outlook.waits(id, at);
                at
            }
            Next::Failed | Next::Panicked => {
                let not_before = now + backoff(failed, base * 5, self.settings.failed_cap, jitter);
                self.failing.insert(id.clone(), Failing { times: failed + 1, not_before });
                self.outlook.failed(id, failed + 1, not_before);
                not_before
            }
        };
        self.timers.set(id.clone(), at);
    }
}

fn task_of(ended: &Result<(Id, Next), JoinError>) -> Id {
    match ended {
        Ok((task, _)) => *task,
        Err(error) => error.id(),
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
