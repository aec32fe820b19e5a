//! Lists of the map, in pieces: a look under the lock is bounded, whatever the filter and the fleet are.
//!
//! Called by the desk, the sweep, the engine's first look, and a step-down that hands over. Invariants: entries come in the
//! order of their ids, each at most once; where a list goes on is an id and not a place, so an entry that is deleted or made
//! in between moves no other; who is there from the first page to the last is in it.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::Observed;

use super::fleet::Fleet;
use super::{Entry, Snapshot};

/// Entries that are looked at under the lock in one go.
const LOOKS: usize = 1024;

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

    /// The rest, after a compute, of a small set that everything it admits is in.
    fn within<'a>(
        &self,
        fleet: &'a Fleet,
        after: Option<&ComputeId>,
    ) -> Option<Box<dyn Iterator<Item = &'a ComputeId> + 'a>> {
        if self.lagging == Some(true) {
            Some(Box::new(fleet.laggers.after(after)))
        } else if self.state.is_some_and(|state| state != ComputeState::Running) {
            Some(Box::new(fleet.odd.range::<ComputeId, _>((after.map_or(Unbounded, Excluded), Unbounded))))
        } else {
            None
        }
    }
}

/// A piece of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// What was found, in the order of the ids.
    pub entries: Vec<Arc<Entry>>,
    /// The last compute that was looked at: the list goes on after it. Nothing at the end.
    pub next: Option<ComputeId>,
}

impl Snapshot {
    /// Up to `limit` entries after `cursor` that pass the filter, ordered by id, and whether there are more.
    #[must_use]
    pub fn page(&self, filter: &Filter, cursor: Option<&ComputeId>, limit: usize) -> (Vec<Arc<Entry>>, bool) {
        let mut found = Vec::new();
        let mut after = cursor.cloned();
        loop {
            // One more than is wanted says whether there are more.
            let piece = self.piece(filter, after.as_ref(), limit.saturating_add(1) - found.len());
            found.extend(piece.entries);
            let more = found.len() > limit;
            if more || piece.next.is_none() {
                found.truncate(limit);
                return (found, more);
            }
            after = piece.next;
        }
    }

    /// Up to `limit` entries after `cursor` that pass the filter, as far as one bounded look finds them.
    #[must_use]
    pub fn piece(&self, filter: &Filter, cursor: Option<&ComputeId>, limit: usize) -> Page {
        let fleet = self.lock();
        match filter.within(&fleet, cursor) {
            Some(ids) => take(ids.filter_map(|id| fleet.get(id)), filter, limit),
            None => {
                let rest = fleet.entries.range::<ComputeId, _>((cursor.map_or(Unbounded, Excluded), Unbounded));
                take(rest.map(|(_, entry)| entry), filter, limit)
            }
        }
    }

    /// What was observed of up to `limit` computes after `after`, ordered by id: for a successor, page by page.
    #[must_use]
    pub fn observed_page(&self, after: Option<&ComputeId>, limit: usize) -> Vec<(ComputeId, Arc<Observed>)> {
        let fleet = self.lock();
        let rest = fleet.entries.range::<ComputeId, _>((after.map_or(Unbounded, Excluded), Unbounded));
        let seen = rest.filter_map(|(id, entry)| Some((id.clone(), entry.observed.clone()?)));
        seen.take(limit).collect()
    }
}

fn take<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>, filter: &Filter, limit: usize) -> Page {
    let mut page = Page::default();
    for (looks, entry) in entries.enumerate() {
        if looks == LOOKS || page.entries.len() == limit {
            return page;
        }
        if filter.admits(entry) {
            page.entries.push(entry.clone());
        }
        page.next = Some(entry.record.compute_id.clone());
    }
    page.next = None;
    page
}
