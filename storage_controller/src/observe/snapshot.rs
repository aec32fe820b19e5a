//! The observed map. One short lock, never held across an await; readers get cheap clones of whole entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::{ComputeView, Observed};
use pgfleet_api::policy::Policy;
use pgfleet_api::{ComputeId, ErrorCode, Generation};
use pgfleet_domain::reconcile::Intent;
use pgfleet_persistence::ComputeRecord;
use tokio::sync::{Notify, watch};

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
            labels: self.record.labels.clone(),
            generation: self.record.generation,
            spec_hash: self.record.spec_hash.clone(),
            applied_generation: observed.as_ref().and_then(|seen| seen.applied_generation),
            lag: self.lag(),
            observed,
            last_error: self.trouble.as_ref().map(|trouble| trouble.why.to_string()),
            quarantine: None,
            // One that was passed over is not shown: nobody does it any more.
            policy: Policy { pending: self.record.policy.wanted(self.record.generation), ..self.record.policy },
            created_at: self.record.created_at,
            updated_at: self.record.updated_at,
        }
    }
}

/// Which entries a page wants.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this state.
    pub state: Option<ComputeState>,
    /// Only with this label.
    pub label: Option<(String, String)>,
    /// Only those behind, or only those that are not.
    pub lagging: Option<bool>,
}

impl Filter {
    fn admits(&self, entry: &Entry) -> bool {
        self.state.is_none_or(|state| entry.observed.as_ref().is_some_and(|seen| seen.state == state))
            && self.label.as_ref().is_none_or(|(key, value)| entry.record.labels.get(key) == Some(value))
            && self.lagging.is_none_or(|lagging| lagging == (entry.lag() > 0))
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

#[derive(Debug, Default)]
struct Fleet {
    entries: BTreeMap<ComputeId, watch::Sender<Arc<Entry>>>,
    tally: Tally,
    /// Observations that are not in the database yet.
    unsaved: BTreeSet<ComputeId>,
}

impl Fleet {
    fn remove(&mut self, id: &ComputeId) {
        if let Some(entry) = self.entries.remove(id) {
            let old = entry.borrow().clone();
            self.tally.count(&old, -1);
            self.unsaved.remove(id);
        }
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
    /// A map that holds what was loaded; nothing in it is unsaved.
    #[must_use]
    pub fn loaded(computes: Vec<ComputeRecord>, observed: Vec<(ComputeId, Observed)>) -> Self {
        let snapshot = Self::default();
        let mut seen: BTreeMap<ComputeId, Arc<Observed>> =
            observed.into_iter().map(|(id, observed)| (id, Arc::new(observed))).collect();
        let mut fleet = snapshot.lock();
        for record in computes {
            let id = record.compute_id.clone();
            let entry = Entry { observed: seen.remove(&id), record: Arc::new(record), trouble: None };
            fleet.tally.count(&entry, 1);
            fleet.entries.insert(id, watch::Sender::new(Arc::new(entry)));
        }
        drop(fleet);
        snapshot
    }

    /// A poisoned lock means a panic between two plain assignments; the map itself is whole.
    fn lock(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One compute.
    #[must_use]
    pub fn get(&self, id: &ComputeId) -> Option<Arc<Entry>> {
        self.lock().entries.get(id).map(|entry| entry.borrow().clone())
    }

    /// One compute and every change of it. The channel closes when the compute is deleted.
    #[must_use]
    pub fn subscribe(&self, id: &ComputeId) -> Option<watch::Receiver<Arc<Entry>>> {
        self.lock().entries.get(id).map(watch::Sender::subscribe)
    }

    /// How many computes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().entries.len()
    }

    /// Up to `limit` entries after `cursor` that pass the filter, ordered by id, and whether there are more.
    #[must_use]
    pub fn page(&self, filter: &Filter, cursor: Option<&ComputeId>, limit: usize) -> (Vec<Arc<Entry>>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let fleet = self.lock();
        let from = cursor.map_or(Unbounded, Excluded);
        let mut found = fleet
            .entries
            .range::<ComputeId, _>((from, Unbounded))
            .map(|(_, entry)| entry.borrow().clone())
            .filter(|entry| filter.admits(entry));
        let page: Vec<_> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        (page, more)
    }

    /// Takes in a committed record. An older one than is known, which a slower caller may bring, is ignored.
    pub fn committed(&self, record: ComputeRecord) {
        let mut fleet = self.lock();
        let fleet = &mut *fleet;
        match fleet.entries.get(&record.compute_id) {
            Some(known) => {
                let old = known.borrow().clone();
                if old.record.change_seq < record.change_seq {
                    let new = Entry { record: Arc::new(record), ..Entry::clone(&old) };
                    fleet.tally.count(&old, -1);
                    fleet.tally.count(&new, 1);
                    known.send_replace(Arc::new(new));
                }
            }
            None => {
                let id = record.compute_id.clone();
                let entry = Entry { record: Arc::new(record), observed: None, trouble: None };
                fleet.tally.count(&entry, 1);
                fleet.entries.insert(id, watch::Sender::new(Arc::new(entry)));
            }
        }
    }

    /// Forgets a compute whose delete was committed.
    pub fn deleted(&self, id: &ComputeId) {
        self.lock().remove(id);
    }

    /// Takes in what an agent said. Returns whether it said anything new.
    ///
    /// A lower `status_seq` of the same boot is an answer that was overtaken; another boot was met by our own contact.
    pub fn observed(&self, id: &ComputeId, call: Call, observed: Observed) -> bool {
        let mut fleet = self.lock();
        let fleet = &mut *fleet;
        let Some(slot) = fleet.entries.get(id) else { return false };
        let old = slot.borrow().clone();
        let overtaken = old
            .observed
            .as_ref()
            .is_some_and(|known| known.boot_id == observed.boot_id && known.status_seq > observed.status_seq);
        let same = old.observed.as_deref() == Some(&observed);
        let trouble = old.trouble.clone().filter(|trouble| trouble.call > call);
        if overtaken || (same && old.trouble == trouble) {
            return false;
        }
        let new = Entry { record: old.record.clone(), observed: Some(Arc::new(observed)), trouble };
        fleet.tally.count(&old, -1);
        fleet.tally.count(&new, 1);
        slot.send_replace(Arc::new(new));
        if !same {
            fleet.unsaved.insert(id.clone());
            self.changed.notify_one();
        }
        !same
    }

    /// Puts a compute back to what the database has, after a panic: whatever is believed of it beside that is forgotten.
    /// Only a record that is newer than the one read stays.
    pub fn reloaded(&self, record: ComputeRecord, observed: Option<Observed>) {
        let mut fleet = self.lock();
        let fleet = &mut *fleet;
        let id = record.compute_id.clone();
        let Some(slot) = fleet.entries.get(&id) else { return };
        let old = slot.borrow().clone();
        let newer = old.record.change_seq > record.change_seq;
        let record = if newer { old.record.clone() } else { Arc::new(record) };
        let new = Entry { record, observed: observed.map(Arc::new), trouble: None };
        fleet.tally.count(&old, -1);
        fleet.tally.count(&new, 1);
        slot.send_replace(Arc::new(new));
        // What was seen and not saved is seen again by the next probe.
        fleet.unsaved.remove(&id);
    }

    /// Notes why a call failed; what was last seen of the compute stays.
    pub fn failed(&self, id: &ComputeId, call: Call, why: &str) {
        self.refused(id, call, why, None);
    }

    /// As [`Self::failed`], with the agent's code if it answered with one.
    pub fn refused(&self, id: &ComputeId, call: Call, why: &str, refused: Option<ErrorCode>) {
        let fleet = self.lock();
        if let Some(slot) = fleet.entries.get(id) {
            slot.send_if_modified(|entry| {
                let known = entry.trouble.as_ref();
                let news =
                    known.is_none_or(|known| known.call != call || *known.why != *why || known.refused != refused);
                if news {
                    let since = known.map_or_else(Instant::now, |known| known.since);
                    let trouble = Some(Trouble { call, why: Arc::from(why), refused, since });
                    *entry = Arc::new(Entry { trouble, ..Entry::clone(entry) });
                }
                news
            });
        }
    }

    /// Takes the observations that are not saved yet; the caller saves them or gives them back by [`Self::keep_unsaved`].
    #[must_use]
    pub fn take_unsaved(&self) -> Vec<(ComputeId, Arc<Observed>)> {
        let mut fleet = self.lock();
        let ids = std::mem::take(&mut fleet.unsaved);
        let seen = |id: ComputeId| {
            let observed = fleet.entries.get(&id)?.borrow().observed.clone()?;
            Some((id, observed))
        };
        ids.into_iter().filter_map(seen).collect()
    }

    /// Marks an observation as not saved, after a write that failed.
    pub fn keep_unsaved(&self, id: ComputeId) {
        let mut fleet = self.lock();
        if fleet.entries.contains_key(&id) {
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

    /// What was observed of up to `limit` computes after `after`, ordered by id: for a successor, page by page.
    #[must_use]
    pub fn observed_page(&self, after: Option<&ComputeId>, limit: usize) -> Vec<(ComputeId, Arc<Observed>)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let fleet = self.lock();
        let rest = fleet.entries.range::<ComputeId, _>((after.map_or(Unbounded, Excluded), Unbounded));
        let seen = rest.filter_map(|(id, entry)| Some((id.clone(), entry.borrow().observed.clone()?)));
        seen.take(limit).collect()
    }

    /// Counts for metrics.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }
}

mod news;
#[cfg(test)]
mod tests;
