//! The map as a follower's memory: what comes from the database goes in here.

use std::sync::Arc;

use pgfleet_api::ComputeId;
use pgfleet_api::compute::Observed;
use pgfleet_persistence::{ComputeRecord, Item};
use tokio::sync::watch;

use super::{Entry, Filter, Fleet, Snapshot};

impl Snapshot {
    /// Takes in what came after the last load or catch-up, in its order. It is what the database has, so it replaces what
    /// is known, and none of it is unsaved.
    pub fn take_in(&self, items: Vec<Item>) {
        let mut fleet = self.lock();
        for item in items {
            match item {
                Item::Compute { record, observed } => fleet.replace(record, observed.map(Arc::from)),
                Item::Deleted { compute_id, .. } => fleet.remove(&compute_id),
                Item::Observed { compute_id, observed, .. } => fleet.see(&compute_id, Arc::from(observed)),
            }
        }
    }

    /// Forgets what went wrong with up to `limit` computes after `cursor`: it says nothing about the next leadership. Gives
    /// the last compute looked at, and nothing at the end.
    #[must_use]
    pub fn forget_trouble(&self, cursor: Option<&ComputeId>, limit: usize) -> Option<ComputeId> {
        let (page, more) = self.page(&Filter::default(), cursor, limit);
        let fleet = self.lock();
        for entry in page.iter().filter(|entry| entry.trouble.is_some()) {
            if let Some(slot) = fleet.entries.get(&entry.record.compute_id) {
                slot.send_modify(|entry| *entry = Arc::new(Entry { trouble: None, ..Entry::clone(entry) }));
            }
        }
        page.last().filter(|_| more).map(|entry| entry.record.compute_id.clone())
    }
}

impl Fleet {
    fn replace(&mut self, record: ComputeRecord, observed: Option<Arc<Observed>>) {
        let new = Entry { record: Arc::new(record), observed, trouble: None };
        self.tally.count(&new, 1);
        self.laggers.note(&new);
        match self.entries.get(&new.record.compute_id) {
            Some(slot) => {
                let old = slot.send_replace(Arc::new(new));
                self.tally.count(&old, -1);
            }
            None => {
                let id = new.record.compute_id.clone();
                self.entries.insert(id, watch::Sender::new(Arc::new(new)));
            }
        }
    }

    fn see(&mut self, id: &ComputeId, observed: Arc<Observed>) {
        let Some(slot) = self.entries.get(id) else { return };
        let old = slot.borrow().clone();
        let new = Entry { observed: Some(observed), ..Entry::clone(&old) };
        self.tally.count(&old, -1);
        self.tally.count(&new, 1);
        self.laggers.note(&new);
        slot.send_replace(Arc::new(new));
    }
}
