//! Looks at every compute by itself, so that what changes without us is noticed: an agent restarted, a PostgreSQL died.
//!
//! ```text
//!   well       answers: asked after a pause that grows from `--probe-min` to `--probe-max` while nothing changes
//!   doubtful   does not answer, was not heard yet, or not since many others fell silent: the same, paid from the connect
//!              budget; with back-off after a failure
//! ```
//!
//! Spawned by `app` for one leadership. It calls the agents' room, the book ([`Presence`]), the engine's waker and the
//! journal. Invariants: one probe per compute at once; its cost grows with the looks that are due, never with the fleet:
//! the one walk, which learns the fleet at the beginning, is made a page at a time; whoever hangs stops nobody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_clients::agent::AgentError;
use pgfleet_domain::agenda::Agenda;
use pgfleet_domain::places::{Limits, Places};
use pgfleet_domain::probing::spread;
use serde_json::json;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hints::Hint;
use super::presence::{Turned, has_ended};
use super::{Call, Contact, Entry, Filter, Hints, Presence, PresenceMetrics, Snapshot};
use crate::agents::{Agents, is_silence};
use crate::reconcile::{MayAct, Quarantine, Room, Waker};

/// Computes learned in one step at the beginning, and the pause between two steps: right after a hand-over the processors
/// belong to whoever has waited for it.
const PAGE: usize = 256;
const PACE: Duration = Duration::from_millis(2);

/// Agents asked at once that answer, and that may not.
const WELL: Limits = Limits { limit: 64, slow_limit: 256, slow_after: Duration::from_millis(250) };
const DOUBTFUL: usize = 256;

/// Calls that the prober may have under way.
pub const CALLS: usize = WELL.limit + WELL.slow_limit + DOUBTFUL;

/// A report is followed by a probe after this time: what an agent reports comes in pairs.
const GATHER: Duration = Duration::from_millis(10);

/// What the prober works with.
pub struct ProberTools {
    /// Where answers go.
    pub snapshot: Snapshot,
    /// Who is asked.
    pub agents: Agents,
    /// Who is told of news.
    pub waker: Waker,
    /// Computes that panicked.
    pub quarantine: Quarantine,
    /// Whether the lease is proved.
    pub may_act: MayAct,
    /// The book.
    pub presence: Presence,
    /// Who is to be asked sooner.
    pub hints: Hints,
    /// What it counts.
    pub metrics: Arc<PresenceMetrics>,
}

/// One leadership's prober.
pub struct Prober {
    tools: Arc<ProberTools>,
    well: Agenda<ComputeId, Instant>,
    doubtful: Agenda<ComputeId, Instant>,
    /// Doubtful ones whose owners wait; they go first.
    wanted: Agenda<ComputeId, Instant>,
    /// Probes of those that answer.
    places: Places<Id, Instant>,
    running: HashMap<Id, Probe>,
    /// Who is being asked, and why they are to be asked again.
    busy: HashMap<ComputeId, Option<Hint>>,
    doubtful_running: usize,
    /// No token before.
    budget_at: Option<Instant>,
    /// How far the fleet is learned; `None`: wholly.
    learned: Option<Option<ComputeId>>,
    learn_at: Instant,
}

struct Probe {
    id: ComputeId,
    is_doubtful: bool,
}

/// How a look ended: whether it saw something new. `None`: nobody was asked.
type Look = Option<bool>;

impl Prober {
    /// A prober that knows nobody yet.
    #[must_use]
    pub fn new(tools: ProberTools) -> Self {
        Self {
            tools: Arc::new(tools),
            well: Agenda::default(),
            doubtful: Agenda::default(),
            wanted: Agenda::default(),
            places: Places::new(WELL),
            running: HashMap::new(),
            busy: HashMap::new(),
            doubtful_running: 0,
            budget_at: None,
            learned: Some(None),
            learn_at: Instant::now(),
        }
    }

    /// Probes until `token` is cancelled; probes in flight are cut then.
    ///
    /// # Errors
    /// Never; the type is what a task has.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut probes: JoinSet<Look> = JoinSet::new();
        loop {
            // One moment for both: what falls due between two looks at the clock would be taken for what has no room.
            let now = Instant::now();
            self.start(&mut probes, now);
            let due = self.due(now);
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(ended) = probes.join_next_with_id(), if !probes.is_empty() => self.ended(ended),
                () = self.tools.hints.given() => {
                    for (id, hint) in self.tools.hints.take() {
                        self.hinted(id, hint);
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = tokio::time::sleep_until(self.learn_at), if self.learned.is_some() => self.learn(),
            }
        }
        probes.shutdown().await;
        self.tools.metrics.left();
        Ok(())
    }

    /// The next page of the fleet; the first looks are spread.
    fn learn(&mut self) {
        let Some(last) = self.learned.take() else { return };
        let (page, more) = self.tools.snapshot.page(&Filter::default(), last.as_ref(), PAGE);
        let (now, presence) = (Instant::now(), &self.tools.presence);
        let within = presence.first_looks_within(self.tools.snapshot.count());
        for entry in &page {
            if presence.meet(entry) {
                let first = within.mul_f64(rand::random::<f64>());
                self.doubtful.set_earlier(entry.record.compute_id.clone(), now + first);
            }
        }
        self.learn_at = now + PACE;
        self.learned = page.last().filter(|_| more).map(|entry| Some(entry.record.compute_id.clone()));
    }

    /// When there is something to begin, or room for it.
    fn due(&self, now: Instant) -> Option<Instant> {
        // What is due and was not begun has no room: a place that turns slow makes some, and so does a probe that ends.
        let well = self.well.due().map(|at| if at > now { Some(at) } else { self.places.ripens() });
        let room = self.doubtful_running < DOUBTFUL;
        let doubtful = self.doubtful_due().filter(|_| room).map(|at| self.budget_at.map_or(at, |from| at.max(from)));
        well.flatten().into_iter().chain(doubtful).min()
    }

    fn doubtful_due(&self) -> Option<Instant> {
        self.wanted.due().into_iter().chain(self.doubtful.due()).min()
    }

    fn start(&mut self, probes: &mut JoinSet<Look>, now: Instant) {
        while self.places.is_free(now) {
            let Some(id) = self.well.take_due(now) else { break };
            if self.has_to_wait(&id) {
                self.doubtful.set_earlier(id, now);
                continue;
            }
            self.probe(id, false, probes, now);
        }
        self.budget_at = self.budget_at.filter(|from| *from > now);
        while self.doubtful_running < DOUBTFUL && self.doubtful_due().is_some_and(|at| at <= now) {
            if self.budget_at.is_some() {
                break;
            }
            if let Err(wait) = self.tools.presence.take_connect() {
                self.tools.metrics.waited_for_budget();
                self.budget_at = Some(now + wait);
                break;
            }
            let Some(id) = self.wanted.take_due(now).or_else(|| self.doubtful.take_due(now)) else { break };
            self.doubtful.remove(&id);
            // A hint may have put there one that seemed to be well and has to wait.
            self.well.remove(&id);
            self.probe(id, true, probes, now);
        }
        let late = self.well.due().into_iter().chain(self.doubtful_due()).min();
        self.tools.metrics.filled(self.running.len(), late.map(|at| now.saturating_duration_since(at)));
    }

    fn has_to_wait(&self, id: &ComputeId) -> bool {
        let is_connected = || {
            let entry = self.tools.snapshot.get(id);
            entry.is_some_and(|entry| self.tools.agents.is_connected(&entry.record.agent_url))
        };
        self.tools.presence.has_to_wait(id, is_connected).is_some()
    }

    fn probe(&mut self, id: ComputeId, is_doubtful: bool, probes: &mut JoinSet<Look>, now: Instant) {
        let Some(entry) = self.tools.snapshot.get(&id) else {
            self.tools.presence.forget(&id);
            return;
        };
        // A leader that cannot prove its lease asks nobody. The tries of a quarantined compute are the engine's.
        if !(self.tools.may_act)() || self.tools.quarantine.holds(&id) {
            self.again(id, false, now);
            return;
        }
        let handle = probes.spawn(watched(self.tools.clone(), entry));
        if is_doubtful {
            self.doubtful_running += 1;
        } else {
            self.places.begin(handle.id(), now);
        }
        self.busy.insert(id.clone(), None);
        self.running.insert(handle.id(), Probe { id, is_doubtful });
    }

    fn ended(&mut self, ended: Result<(Id, Look), JoinError>) {
        let (task, look) = match ended {
            Ok((task, look)) => (task, look),
            Err(error) => {
                // A panic of a probe is caught in it; what breaks beyond that is a defect all the same.
                tracing::error!(%error, "a probe broke");
                (error.id(), None)
            }
        };
        let Some(Probe { id, is_doubtful }) = self.running.remove(&task) else { return };
        if is_doubtful {
            self.doubtful_running -= 1;
        } else {
            self.places.end(&task);
        }
        let hint = self.busy.remove(&id).flatten();
        self.again(id.clone(), look.unwrap_or(false), Instant::now());
        if let Some(hint) = hint {
            self.hinted(id, hint);
        }
    }

    /// Sets the next look.
    fn again(&mut self, id: ComputeId, news: bool, now: Instant) {
        let (pause, is_doubtful) = self.tools.presence.next_look(&id, news);
        let (this, other) =
            if is_doubtful { (&mut self.doubtful, &mut self.well) } else { (&mut self.well, &mut self.doubtful) };
        other.remove(&id);
        self.wanted.remove(&id);
        this.set(id, now + pause);
    }

    fn hinted(&mut self, id: ComputeId, hint: Hint) {
        if let Some(kept) = self.busy.get_mut(&id) {
            // What a probe under way sees is later than a commit or a failed pass, but not than a report.
            if hint == Hint::Reported || hint == Hint::Wanted {
                *kept = (*kept).max(Some(hint));
            }
            return;
        }
        let Some(entry) = self.tools.snapshot.get(&id) else { return };
        let (presence, now) = (&self.tools.presence, Instant::now());
        presence.meet(&entry);
        let at = match hint {
            // Passes look at it meanwhile.
            Hint::Committed => now + spread(presence.pace().min, rand::random::<f64>()),
            // However often it reports.
            Hint::Reported => now + GATHER.max(presence.too_soon(&id)),
            Hint::Unanswered => return self.again(id, false, now),
            Hint::Wanted => {
                presence.wanted(&id);
                return self.wanted.set_earlier(id, now);
            }
        };
        if presence.contact(&id) == Contact::Answers {
            self.well.set_earlier(id, at);
        } else {
            self.doubtful.set_earlier(id, at);
        }
    }
}

/// A look that keeps its panic to itself.
async fn watched(tools: Arc<ProberTools>, entry: Arc<Entry>) -> Look {
    let id = entry.record.compute_id.clone();
    let looked = tools.quarantine.watch(Room::Observe, &id, look(&tools, &id, &entry)).await;
    if looked.is_none() {
        // After a panic the engine reads it anew, and tries it later if it is quarantined now.
        tools.waker.wake(id);
    }
    looked
}

/// Asks one agent. Gives whether it said anything new.
async fn look(tools: &ProberTools, id: &ComputeId, entry: &Entry) -> bool {
    let (news, wakes, turned) = match tools.agents.probe(&entry.record.agent_url).await {
        Ok(probed) => {
            let turned = tools.presence.answered(entry, &probed.observed);
            let news = tools.snapshot.observed(id, Call::Probe, probed.observed);
            // An agent that was away may need its spec again, so a compute that comes back is looked at as well.
            (news, news || turned.is_back || entry.trouble.is_some(), turned)
        }
        // One that was ended has no agent any more, and that is no trouble.
        Err(AgentError::Unreachable { .. }) if has_ended(entry) => (false, false, tools.presence.unanswered(entry)),
        Err(error) => {
            let turned = match is_silence(&error) {
                Some(true) => tools.presence.unanswered(entry),
                Some(false) => tools.presence.spoke(entry),
                None => Turned::default(),
            };
            tools.snapshot.failed(id, Call::Probe, &error.to_string(), error.answered());
            (false, turned.is_back, turned)
        }
    };
    if wakes {
        tools.waker.wake(id.clone());
    }
    tell(tools, id, turned).await;
    news
}

/// Goes offline and comes back are in the journal: an operator looks there first.
async fn tell(tools: &ProberTools, id: &ComputeId, turned: Turned) {
    let Some(availability) = turned.moved else { return };
    let silent_ms = u64::try_from(turned.silent_for.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(compute_id = %id, availability = availability.as_str(), silent_ms, "availability of a compute changed");
    let detail = json!({"event": "availability", "availability": availability, "silent_ms": silent_ms});
    tools.quarantine.journal(id, detail).await;
}
