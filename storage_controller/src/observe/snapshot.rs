//! The observed map. One short lock, never held across an await; readers get cheap clones of whole entries.
//!
//! Called by: every room that shows, changes or watches a compute. It calls nobody. Parts: `fleet` (what is under the lock),
//! `pages` (lists in pieces), `news` (what a follower reads). Invariants: nothing that is done under the lock grows with the
//! fleet, but a list without a limit, which only tests ask for; the text of no spec is in here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::{ComputeView, Observed};
use pgfleet_api::policy::Policy;
use pgfleet_api::{ComputeId, ErrorCode, Generation};
use pgfleet_domain::policy::{Step, step};
use pgfleet_domain::reconcile::{Intent, Plan};
use pgfleet_persistence::ComputeRecord;
use tokio::sync::{Notify, watch};

use fleet::Fleet;
pub use lagging::LagAges;
pub use pages::{Filter, Page};

/// One compute: the committed intent and the last observation.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As committed.
    pub record: Arc<ComputeRecord>,
    /// As last seen; `None` before it was ever reached.
    pub observed: Option<Arc<Observed>>,
    /// What went wrong last; `None` once the same kind of call has succeeded.
    pub trouble: Option<Trouble>,
}

/// A call to an agent that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Which call.
    pub call: Call,
    /// Why, in one line.
    pub why: Arc<str>,
    /// The agent's code, if it answered with one.
    pub refused: Option<ErrorCode>,
    /// When calls of this kind began to fail; by this leadership's clock.
    pub since: Instant,
}

/// More changes than an agent makes between two looks.
const LAST_WORD: u64 = 1 << 20;

/// A kind of call to an agent. A successful push is worth more than a probe: an agent that answers for its status and
/// refuses every spec is still in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `GET /status`.
    Probe,
    /// `POST /configure`.
    Push,
}

impl Entry {
    /// Generations the compute is behind.
    #[must_use]
    pub fn lag(&self) -> i64 {
        let applied = self.observed.as_ref().and_then(|seen| seen.applied_generation).unwrap_or(Generation(0));
        (self.record.generation.get() - applied.get()).max(0)
    }

    /// What is asked for, as far as a plan needs it.
    #[must_use]
    pub fn intent(&self) -> Intent {
        Intent { generation: self.record.generation, spec_hash: self.record.spec_hash.clone() }
    }

    /// The entry as clients see it.
    #[must_use]
    pub fn view(&self) -> ComputeView {
        let observed = self.observed.as_deref().cloned();
        ComputeView {
            compute_id: self.record.compute_id.clone(),
            agent_url: self.record.agent_url.clone(),
            labels: self.record.labels.as_ref().clone(),
            generation: self.record.generation,
            spec_hash: self.record.spec_hash.clone(),
            applied_generation: observed.as_ref().and_then(|seen| seen.applied_generation),
            lag: self.lag(),
            observed,
            last_error: self.trouble.as_ref().map(|trouble| trouble.why.to_string()),
            quarantine: None,
            availability: None,
            // One that was passed over is not shown: nobody does it any more.
            policy: Policy { pending: self.record.policy.wanted(self.record.generation), ..self.record.policy },
            created_at: self.record.created_at,
            updated_at: self.record.updated_at,
        }
    }
}

/// Counts that a scrape reads without walking the fleet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Computes by state, in the order of [`ComputeState::ALL`].
    pub by_state: [i64; ComputeState::ALL.len()],
    /// Computes never reached.
    pub unknown: i64,
    /// Computes whose spec is not in effect.
    pub lagging: i64,
    /// Sum of all lags, in generations.
    pub lag_generations: i64,
}

impl Tally {
    fn count(&mut self, entry: &Entry, sign: i64) {
        match &entry.observed {
            Some(seen) => {
                let index = ComputeState::ALL.iter().position(|state| *state == seen.state);
                if let Some(slot) = index.and_then(|i| self.by_state.get_mut(i)) {
                    *slot += sign;
                }
            }
            None => self.unknown += sign,
        }
        let lag = entry.lag();
        self.lagging += sign * i64::from(lag > 0);
        self.lag_generations += sign * lag;
    }
}

/// The handle to the map; cheap to clone. The same map serves a member that follows and, when it takes over, its
/// leadership.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    fleet: Arc<Mutex<Fleet>>,
    changed: Arc<Notify>,
}

impl Snapshot {
    /// A map that holds what was loaded; nothing in it is unsaved. Both lists are ordered by id.
    #[must_use]
    pub fn loaded(computes: Vec<ComputeRecord>, observed: Vec<(ComputeId, Observed)>) -> Self {
        Self { fleet: Arc::new(Mutex::new(Fleet::of(computes, observed))), ..Self::default() }
    }

    /// A poisoned lock means a panic between two plain assignments; the map itself is whole.
    fn lock(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One compute.
    #[must_use]
    pub fn get(&self, id: &ComputeId) -> Option<Arc<Entry>> {
        self.lock().get(id).cloned()
    }

    /// One compute and every change of it. The channel closes when the compute is deleted.
    #[must_use]
    pub fn subscribe(&self, id: &ComputeId) -> Option<watch::Receiver<Arc<Entry>>> {
        self.lock().subscribe(id)
    }

    /// How many computes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().count()
    }

    /// Takes in a committed record. An older one than is known, which a slower caller may bring, is ignored.
    pub fn committed(&self, record: ComputeRecord) {
        let mut fleet = self.lock();
        let new = match fleet.get(&record.compute_id) {
            Some(old) if old.record.change_seq >= record.change_seq => return,
            Some(old) => Entry { record: Arc::new(record), ..Entry::clone(old) },
            None => Entry { record: Arc::new(record), observed: None, trouble: None },
        };
        fleet.put(new);
    }

    /// Forgets a compute whose delete was committed.
    pub fn deleted(&self, id: &ComputeId) {
        self.lock().remove(id);
    }

    /// Takes in what an agent said. Returns whether it said anything new.
    ///
    /// A lower `status_seq` of the same boot is an answer that was overtaken; another boot was met by our own contact.
    pub fn observed(&self, id: &ComputeId, call: Call, observed: Observed) -> bool {
        self.hear(&mut self.lock(), id, call, observed)
    }

    /// Notes that an agent has ended its compute and is gone: the last word of that life, after every answer of it that is
    /// still on its way.
    pub fn ended(&self, id: &ComputeId) {
        let mut fleet = self.lock();
        let Some(seen) = fleet.get(id).and_then(|entry| entry.observed.clone()) else { return };
        let status_seq = seen.status_seq.saturating_add(LAST_WORD);
        let ended = Observed { state: ComputeState::Terminated, status_seq, postgres: None, ..Observed::clone(&seen) };
        self.hear(&mut fleet, id, Call::Push, ended);
    }

    fn hear(&self, fleet: &mut Fleet, id: &ComputeId, call: Call, observed: Observed) -> bool {
        let Some(old) = fleet.get(id).cloned() else { return false };
        let overtaken = old
            .observed
            .as_ref()
            .is_some_and(|known| known.boot_id == observed.boot_id && known.status_seq > observed.status_seq);
        let same = old.observed.as_deref() == Some(&observed);
        // What failed is over where nothing is left to do: an agent may take a spec, give it up, and refuse the call.
        let settled = || step(old.record.policy, &old.intent(), Some(&observed)) == Step::Plan(Plan::Rest);
        let trouble = old.trouble.clone().filter(|trouble| trouble.call > call && !settled());
        if overtaken || (same && old.trouble == trouble) {
            return false;
        }
        fleet.put(Entry { record: old.record.clone(), observed: Some(Arc::new(observed)), trouble });
        if !same {
            fleet.unsaved.insert(old.record.compute_id.clone());
            self.changed.notify_one();
        }
        !same
    }

    /// Puts a compute back to what the database has, after a panic: whatever is believed of it beside that is forgotten.
    /// Only a record that is newer than the one read stays.
    pub fn reloaded(&self, record: ComputeRecord, observed: Option<Observed>) {
        let mut fleet = self.lock();
        let id = record.compute_id.clone();
        let Some(old) = fleet.get(&id).cloned() else { return };
        let newer = old.record.change_seq > record.change_seq;
        let record = if newer { old.record.clone() } else { Arc::new(record) };
        fleet.put(Entry { record, observed: observed.map(Arc::new), trouble: None });
        // What was seen and not saved is seen again by the next probe.
        fleet.unsaved.remove(&id);
    }

    /// Notes why a call failed, and the agent's code if it answered; what was last seen of the compute stays.
    pub fn failed(&self, id: &ComputeId, call: Call, why: &str, refused: Option<ErrorCode>) {
        let mut fleet = self.lock();
        let Some(old) = fleet.get(id).cloned() else { return };
        let known = old.trouble.as_ref();
        if known.is_none_or(|known| known.call != call || *known.why != *why || known.refused != refused) {
            let since = known.map_or_else(Instant::now, |known| known.since);
            let trouble = Some(Trouble { call, why: Arc::from(why), refused, since });
            fleet.put(Entry { trouble, ..Entry::clone(&old) });
        }
    }

    /// Takes the observations that are not saved yet; the caller saves them or gives them back by [`Self::keep_unsaved`].
    #[must_use]
    pub fn take_unsaved(&self) -> Vec<(ComputeId, Arc<Observed>)> {
        let mut fleet = self.lock();
        let ids = std::mem::take(&mut fleet.unsaved);
        let seen = |id: ComputeId| {
            let observed = fleet.get(&id)?.observed.clone()?;
            Some((id, observed))
        };
        ids.into_iter().filter_map(seen).collect()
    }

    /// Marks an observation as not saved, after a write that failed.
    pub fn keep_unsaved(&self, id: ComputeId) {
        let mut fleet = self.lock();
        if fleet.get(&id).is_some() {
            fleet.unsaved.insert(id);
        }
    }

    /// Whether something is marked as not saved.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        !self.lock().unsaved.is_empty()
    }

    /// Waits until there may be something to save.
    pub async fn unsaved(&self) {
        self.changed.notified().await;
    }

    /// Wakes whoever waits in [`Self::unsaved`].
    pub fn nudge(&self) {
        self.changed.notify_one();
    }

    /// Counts for metrics.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }
}

mod fleet;
mod lagging;
mod news;
mod pages;
#[cfg(test)]
mod tests;
