//! Keeps a defect to the one compute whose work meets it.
//!
//! Called by the engine (passes) and the window's prober (probes), which run their work inside [`Quarantine::watch`], and by
//! the desk, which shows and clears. It calls `domain::quarantine` to decide, the writer for the journal, and the database
//! for a compute's state anew. Invariants: a panic ends no task but its own work's, and what that held is given back as the
//! stack unwinds; the next pass after it begins with the compute as the database has it; a compute that panicked too often
//! is left alone but for one try now and then, until an operator clears it; so is one whose agent says what is beyond
//! belief ([`Quarantine::bar`]), until an operator clears or changes it. All of it is one leadership's memory: a new
//! leader counts anew.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use pgfleet_api::compute::{ComputeView, QuarantineView};
use pgfleet_api::{ComputeId, SpecHash, SpecText};
use pgfleet_domain::quarantine::{Event, Limits, State, Verdict, decide};
use pgfleet_persistence::{Action, Asker, Change, Committed, Database, DbError, WriteError, Writer};
use pgfleet_runtime::metrics::TaskMetrics;
use pgfleet_runtime::panic_door::{PanicPoint, Panics};
use pgfleet_runtime::supervisor::panic_text;
use serde_json::json;
use tokio::time::Instant;

use super::ReconcileMetrics;
use super::ahead::{Heard, Tell};
use super::metrics::Room;
use crate::observe::Snapshot;

/// Who the journal names for what the controller notes by itself.
pub(super) const ACTOR: &str = "controller";

/// As much of a panic's message is kept.
const SAID_CHARS: usize = 500;

/// What one leadership's quarantine is made of.
pub struct Tools {
    /// When a compute is quarantined.
    pub limits: Limits,
    /// Where the journal is written.
    pub writer: Writer,
    /// Where a compute's state is read anew.
    pub database: Arc<Database>,
    /// The engine's counts.
    pub metrics: Arc<ReconcileMetrics>,
    /// Panics by room.
    pub tasks: Arc<TaskMetrics>,
    /// Test door.
    pub panics: Panics,
    /// Who has to know what agents say.
    pub tell: Tell,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Quarantine {
    tools: Arc<Tools>,
    began: Instant,
    kept: Arc<Mutex<BTreeMap<ComputeId, Kept>>>,
}

/// What is remembered of a compute that panicked.
struct Kept {
    state: State,
    /// Its entry in memory is not trusted until it was read anew.
    is_suspect: bool,
    /// It was quarantined for what its agent says; what an operator changes about it ends that.
    is_barred: bool,
    /// What the last panic said.
    said: Arc<str>,
}

/// Whether a pass may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// As ever.
    Go,
    /// The one try of a quarantined compute.
    Try {
        /// When the next may be made.
        next: Instant,
    },
    /// It is left alone.
    Wait {
        /// Until then.
        until: Instant,
    },
}

impl Quarantine {
    /// Nothing has panicked yet.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        tools.tasks.register(Room::Reconcile.as_str());
        tools.tasks.register(Room::Observe.as_str());
        tools.metrics.quarantined(0);
        Self { tools: Arc::new(tools), began: Instant::now(), kept: Arc::default() }
    }

    /// Where the engine counts.
    pub(super) fn metrics(&self) -> Arc<ReconcileMetrics> {
        self.tools.metrics.clone()
    }

    /// The lock guards plain maps; a panic between two assignments leaves them whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ComputeId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, kept: &mut Kept, event: Event) -> Verdict {
        let (next, verdict) = decide(&kept.state, event, self.began.elapsed(), &self.tools.limits);
        kept.state = next;
        verdict
    }

    /// Asks for a pass over this compute. An admitted try is used up with the question.
    pub(super) fn admit(&self, id: &ComputeId) -> Admission {
        self.tools.panics.at(PanicPoint::InEngine, id);
        let mut all = self.lock();
        let Some(kept) = all.get_mut(id) else { return Admission::Go };
        match self.decide(kept, Event::Asked) {
            Verdict::Go => Admission::Go,
            Verdict::Try { next } => Admission::Try { next: self.began + next },
            Verdict::Wait { until } | Verdict::Quarantine { until } => Admission::Wait { until: self.began + until },
        }
    }

    /// Whether the compute is quarantined now.
    #[must_use]
    pub fn holds(&self, id: &ComputeId) -> bool {
        self.lock().get(id).is_some_and(|kept| matches!(kept.state, State::Quarantined { .. }))
    }

    /// Runs work over one compute. `None`: it panicked; that is counted, journalled and remembered.
    pub async fn watch<T>(&self, room: Room, id: &ComputeId, work: impl Future<Output = T>) -> Option<T> {
        let guarded = async {
            self.tools.panics.at(room.point(), id);
            work.await
        };
        match AssertUnwindSafe(guarded).catch_unwind().await {
            Ok(done) => Some(done),
            Err(payload) => {
                let said: String = panic_text(payload.as_ref()).replace('\0', " ").chars().take(SAID_CHARS).collect();
                self.panicked(room, id, &said).await;
                None
            }
        }
    }

    async fn panicked(&self, room: Room, id: &ComputeId, said: &str) {
        self.tools.metrics.compute_panicked(room);
        self.tools.tasks.panicked(room.as_str());
        tracing::error!(
            compute_id = %id,
            room = room.as_str(),
            "work on a compute panicked: {said}; it goes on from what the database has"
        );
        // Remembered before anything is waited for: whoever comes next knows of it.
        let quarantined = self.note(id, said, Event::Panicked);
        self.journal(id, json!({"event": "panic", "room": room.as_str(), "message": said})).await;
        let Some(pause) = quarantined else { return };
        self.say_quarantined(room, id, pause, said).await;
    }

    async fn say_quarantined(&self, room: Room, id: &ComputeId, pause: Duration, said: &str) {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(
            compute_id = %id,
            pause_ms,
            "a compute is quarantined: {said}; look into it, then: pgfleet compute unquarantine {id}"
        );
        self.journal(id, json!({"event": "quarantine", "room": room.as_str(), "message": said})).await;
    }

    /// Quarantines a compute at once: what its agent says is beyond belief.
    pub(super) async fn bar(&self, id: &ComputeId, said: &str) {
        if let Some(pause) = self.note(id, said, Event::Barred) {
            self.say_quarantined(Room::Reconcile, id, pause, said).await;
        }
    }

    /// Remembers a panic, or what an agent says. `Some`: the compute is quarantined by it; the pause before the first try.
    fn note(&self, id: &ComputeId, said: &str, event: Event) -> Option<Duration> {
        let mut all = self.lock();
        let fresh = || Kept { state: State::default(), is_suspect: false, is_barred: false, said: Arc::from(said) };
        let kept = all.entry(id.clone()).or_insert_with(fresh);
        (kept.is_suspect, kept.said) = (kept.is_suspect || event == Event::Panicked, Arc::from(said));
        // One that panicked, too, is not let go by a mere change.
        kept.is_barred = event == Event::Barred && matches!(kept.state, State::Watched { .. }) || kept.is_barred;
        let pause = match self.decide(kept, event) {
            Verdict::Quarantine { until } => Some(until.saturating_sub(self.began.elapsed())),
            Verdict::Go | Verdict::Try { .. } | Verdict::Wait { .. } => None,
        };
        self.show_count(&all);
        pause
    }

    fn show_count(&self, all: &BTreeMap<ComputeId, Kept>) {
        let held = all.values().filter(|kept| matches!(kept.state, State::Quarantined { .. })).count();
        self.tools.metrics.quarantined(held);
    }

    /// Writes what the controller wants by itself.
    pub(super) async fn write(&self, asker: Asker, change: Change) -> Result<Committed, WriteError> {
        self.tools.writer.submit_for(asker, change).await
    }

    /// The text of the spec that is to be pushed; `None` if the compute has another one by now.
    pub(super) async fn spec_text(&self, id: &ComputeId, hash: &SpecHash) -> Result<Option<SpecText>, DbError> {
        self.tools.database.spec_text(id, hash).await
    }

    /// Tells others what an agent said.
    pub(super) fn tell(&self, heard: Heard) {
        (self.tools.tell)(heard);
    }

    /// Notes in the journal what the controller does or meets by itself.
    pub async fn journal(&self, id: &ComputeId, detail: serde_json::Value) {
        let action = Action { compute_id: Some(id.clone()), actor: ACTOR.to_owned(), reason: None, detail };
        if let Err(error) = self.tools.writer.submit(Change::Journal(action)).await {
            tracing::warn!(compute_id = %id, %error, "what the controller did or met is not in the journal");
        }
    }

    /// Puts a compute that panicked back to what the database has. Returns whether a pass may trust memory now.
    pub(super) async fn refresh(&self, id: &ComputeId, snapshot: &Snapshot) -> bool {
        if !self.lock().get(id).is_some_and(|kept| kept.is_suspect) {
            return true;
        }
        match self.tools.database.compute(id).await {
            Ok(Some((record, observed))) => snapshot.reloaded(record, observed),
            Ok(None) => snapshot.deleted(id),
            Err(error) => {
                tracing::warn!(compute_id = %id, %error, "cannot read a compute anew after a panic; tried again");
                return false;
            }
        }
        if let Some(kept) = self.lock().get_mut(id) {
            kept.is_suspect = false;
        }
        true
    }

    /// Ends a quarantine. Returns whether there was one.
    #[must_use]
    pub fn clear(&self, id: &ComputeId) -> bool {
        let mut all = self.lock();
        let Some(kept) = all.get_mut(id) else { return false };
        let held = matches!(kept.state, State::Quarantined { .. });
        kept.is_barred = false;
        self.decide(kept, Event::Cleared);
        self.show_count(&all);
        held
    }

    /// An operator has changed the compute: one that was quarantined for what its agent says is tried again at once.
    pub fn changed(&self, id: &ComputeId) {
        let mut all = self.lock();
        if let Some(kept) = all.get_mut(id).filter(|kept| kept.is_barred) {
            kept.is_barred = false;
            self.decide(kept, Event::Cleared);
            self.show_count(&all);
        }
    }

    /// Forgets a compute that is deleted: another that gets its name begins anew.
    pub fn forget(&self, id: &ComputeId) {
        let mut all = self.lock();
        all.remove(id);
        self.show_count(&all);
    }

    /// Adds to a view what is known here.
    pub fn show(&self, view: &mut ComputeView) {
        let all = self.lock();
        let Some(kept) = all.get(&view.compute_id) else { return };
        if let State::Quarantined { since, tries, until } = &kept.state {
            view.quarantine = Some(QuarantineView {
                since: self.at(*since),
                next_try_at: self.at(*until),
                tries: *tries,
                reason: kept.said.to_string(),
            });
        }
    }

    /// A moment of our own clock as people read it.
    fn at(&self, moment: Duration) -> DateTime<Utc> {
        let now = self.began.elapsed();
        let distance = |time| chrono::Duration::from_std(time).unwrap_or_default();
        Utc::now() - distance(now.saturating_sub(moment)) + distance(moment.saturating_sub(now))
    }
}

impl Room {
    const fn point(self) -> PanicPoint {
        match self {
            Self::Reconcile => PanicPoint::InPass,
            Self::Observe => PanicPoint::InProbe,
        }
    }
}
