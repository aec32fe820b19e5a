//! What is under the lock of the map: the entries, and small indexes that follow each change of one.
//!
//! Called by the map's other parts. Invariants: counts and indexes equal what a walk over the entries would find; a channel
//! exists only for an entry that somebody waits for, because one for each would take more memory than the entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::Observed;
use pgfleet_persistence::ComputeRecord;
use tokio::sync::watch;

use super::lagging::Laggers;
use super::{Entry, Tally};

/// Channels that may be there before those that nobody reads any more are looked for.
const FEW_CHANNELS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub(super) entries: BTreeMap<ComputeId, Arc<Entry>>,
    /// Of entries that somebody waits for.
    channels: BTreeMap<ComputeId, watch::Sender<Arc<Entry>>>,
    /// How many channels there may be before the next look.
    channels_limit: usize,
    pub(super) tally: Tally,
    /// Whose spec is not in effect, and since when.
    pub(super) laggers: Laggers,
    /// Those that do not run, or were never reached.
    pub(super) odd: BTreeSet<ComputeId>,
    /// Observations that are not in the database yet.
    pub(super) unsaved: BTreeSet<ComputeId>,
}

impl Fleet {
    /// Of two lists that are ordered by id.
    pub(super) fn of(computes: Vec<ComputeRecord>, observed: Vec<(ComputeId, Observed)>) -> Self {
        let mut fleet = Self::default();
        let mut seen = observed.into_iter().peekable();
        let entries = computes.into_iter().map(|record| {
            // What is observed of a compute that is not there belongs to nobody.
            while seen.next_if(|(id, _)| *id < record.compute_id).is_some() {}
            let mine = seen.next_if(|(id, _)| *id == record.compute_id);
            Entry { record: Arc::new(record), observed: mine.map(|(_, seen)| Arc::new(seen)), trouble: None }
        });
        let entries: Vec<(ComputeId, Arc<Entry>)> =
            entries.map(|entry| (entry.record.compute_id.clone(), Arc::new(entry))).collect();
        entries.iter().for_each(|(_, entry)| fleet.count_in(entry));
        // Built at once from what is in order, its nodes are full.
        fleet.entries = entries.into_iter().collect();
        fleet
    }

    pub(super) fn get(&self, id: &ComputeId) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Puts an entry in the place of the one before, and tells whoever waits for it.
    pub(super) fn put(&mut self, entry: Entry) {
        let (id, entry) = (entry.record.compute_id.clone(), Arc::new(entry));
        self.count_in(&entry);
        if let Some(channel) = self.channels.get(&id) {
            channel.send_replace(entry.clone());
        }
        match self.entries.get_mut(&id) {
            Some(place) => {
                let old = std::mem::replace(place, entry);
                self.count_out(&old);
                self.index(&id);
            }
            None => {
                self.entries.insert(id, entry);
            }
        }
    }

    pub(super) fn remove(&mut self, id: &ComputeId) {
        if let Some(old) = self.entries.remove(id) {
            self.count_out(&old);
            self.channels.remove(id);
            self.unsaved.remove(id);
            self.laggers.forget(id);
            self.odd.remove(id);
        }
    }

    /// Every change of an entry from now on.
    pub(super) fn subscribe(&mut self, id: &ComputeId) -> Option<watch::Receiver<Arc<Entry>>> {
        let entry = self.entries.get(id)?;
        if self.channels.len() >= self.channels_limit.max(FEW_CHANNELS) {
            self.channels.retain(|_, channel| channel.receiver_count() > 0);
            self.channels_limit = self.channels.len() * 2;
        }
        let new = || watch::Sender::new(entry.clone());
        Some(self.channels.entry(id.clone()).or_insert_with(new).subscribe())
    }

    #[cfg(test)]
    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    fn count_in(&mut self, entry: &Entry) {
        self.tally.count(entry, 1);
        self.laggers.note(entry);
        if is_odd(entry) {
            self.odd.insert(entry.record.compute_id.clone());
        }
    }

    fn count_out(&mut self, entry: &Entry) {
        self.tally.count(entry, -1);
    }

    /// Takes an entry out of the indexes that it does not belong to any more.
    fn index(&mut self, id: &ComputeId) {
        let Some(entry) = self.entries.get(id) else { return };
        if !is_odd(entry) {
            self.odd.remove(id);
        }
    }
}

fn is_odd(entry: &Entry) -> bool {
    entry.observed.as_ref().is_none_or(|seen| seen.state != ComputeState::Running)
}
