//! The map as a follower's memory: what comes from the database goes in here.

use std::sync::Arc;

use pgfleet_api::ComputeId;
use pgfleet_api::compute::Observed;
use pgfleet_persistence::{ComputeRecord, Item};

use super::fleet::Fleet;
use super::{Entry, Filter, Snapshot};

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
        let mut fleet = self.lock();
        for entry in page.iter().filter(|entry| entry.trouble.is_some()) {
            if let Some(now) = fleet.get(&entry.record.compute_id).cloned() {
                fleet.put(Entry { trouble: None, ..Entry::clone(&now) });
            }
        }
        page.last().filter(|_| more).map(|entry| entry.record.compute_id.clone())
    }
}

impl Fleet {
    fn replace(&mut self, record: ComputeRecord, observed: Option<Arc<Observed>>) {
        self.put(Entry { record: Arc::new(record), observed, trouble: None });
    }

    fn see(&mut self, id: &ComputeId, observed: Arc<Observed>) {
        let Some(old) = self.get(id).cloned() else { return };
        self.put(Entry { observed: Some(observed), ..Entry::clone(&old) });
    }
}
