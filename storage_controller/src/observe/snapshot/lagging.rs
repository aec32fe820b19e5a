//! Which computes lag, and since when, kept as the map changes: a new leader finds what is unfinished without a walk, and a
//! scrape reads the ages without one.
//!
//! Invariants: it holds exactly the computes whose lag is above 0; ages are for people and alerts: they compare the
//! database's clock with ours and decide nothing.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use pgfleet_api::{ComputeId, Generation};

use super::{Entry, Snapshot};

/// Generations remembered per compute; of more the last ones count as one.
const REMEMBERED: usize = 8;

/// Computes that lag, by the age of their oldest generation that is not in effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LagAges {
    /// In the order of [`LagAges::NAMES`].
    pub by_age: [i64; LagAges::NAMES.len()],
}

impl LagAges {
    /// Names of the buckets; each begins where the one before ends.
    pub const NAMES: [&'static str; 5] = ["under_1s", "under_5s", "under_30s", "under_5m", "older"];
    /// Their ends in seconds; the last has none.
    const ENDS_S: [i64; 4] = [1, 5, 30, 300];

    fn add(&mut self, age_s: i64, count: i64) {
        let bucket = Self::ENDS_S.iter().position(|end| age_s < *end).unwrap_or(Self::ENDS_S.len());
        if let Some(slot) = self.by_age.get_mut(bucket) {
            *slot += count;
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Laggers {
    /// Generations that are not in effect, and the seconds they were committed in, oldest first; never empty.
    pending: BTreeMap<ComputeId, Vec<(Generation, i64)>>,
    /// How many have their oldest one in which second.
    seconds: BTreeMap<i64, i64>,
    /// Whose second is before this one is only counted.
    folded_before: i64,
    folded: i64,
}

impl Laggers {
    /// Takes in what a compute is now.
    pub(super) fn note(&mut self, entry: &Entry) {
        let id = &entry.record.compute_id;
        let before = self.pending.get(id).and_then(|known| known.first()).map(|(_, second)| *second);
        if entry.lag() == 0 {
            if before.is_some() {
                self.pending.remove(id);
            }
        } else {
            let applied = entry.observed.as_ref().and_then(|seen| seen.applied_generation).unwrap_or(Generation(0));
            let (current, second) = (entry.record.generation, entry.record.updated_at.timestamp());
            let known = self.pending.entry(id.clone()).or_default();
            known.retain(|(generation, _)| *generation > applied && *generation <= current);
            let is_full = known.len() >= REMEMBERED;
            match known.last_mut() {
                Some((generation, _)) if is_full || *generation == current => *generation = current,
                _ => known.push((current, second)),
            }
        }
        let after = self.pending.get(id).and_then(|known| known.first()).map(|(_, second)| *second);
        if before != after {
            self.count(before, -1);
            self.count(after, 1);
        }
    }

    /// Those after a compute, ordered by id.
    pub(super) fn after<'a>(&'a self, after: Option<&ComputeId>) -> impl Iterator<Item = &'a ComputeId> + use<'a> {
        self.pending.range::<ComputeId, _>((after.map_or(Unbounded, Excluded), Unbounded)).map(|(id, _)| id)
    }

    /// Forgets a compute.
    pub(super) fn forget(&mut self, id: &ComputeId) {
        let known = self.pending.remove(id);
        self.count(known.and_then(|known| known.first().map(|(_, second)| *second)), -1);
    }

    fn count(&mut self, second: Option<i64>, change: i64) {
        let Some(second) = second else { return };
        if second < self.folded_before {
            self.folded += change;
            return;
        }
        let slot = self.seconds.entry(second).or_default();
        *slot += change;
        if *slot == 0 {
            self.seconds.remove(&second);
        }
    }

    /// Ages at this second; what is in the last bucket for good is folded, so there are at most some hundred seconds.
    fn ages(&mut self, now_s: i64) -> LagAges {
        let last = LagAges::ENDS_S.last().copied().unwrap_or_default();
        let before = now_s.saturating_sub(last).max(self.folded_before);
        let young = self.seconds.split_off(&before);
        self.folded += std::mem::replace(&mut self.seconds, young).into_values().sum::<i64>();
        self.folded_before = before;
        let mut ages = LagAges::default();
        ages.add(last, self.folded);
        for (second, count) in &self.seconds {
            ages.add(now_s - second, *count);
        }
        ages
    }
}

impl Snapshot {
    /// Up to `limit` computes after `after` whose spec is not in effect, ordered by id.
    #[must_use]
    pub fn lagging_page(&self, after: Option<&ComputeId>, limit: usize) -> Vec<ComputeId> {
        self.lock().laggers.after(after).take(limit).cloned().collect()
    }

    /// Computes that lag, by age, at this second of the wall clock.
    #[must_use]
    pub fn lag_ages(&self, now_s: i64) -> LagAges {
        self.lock().laggers.ages(now_s)
    }
}
