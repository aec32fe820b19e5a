//! When which compute is to be looked at again although nothing happens: at most one time per compute.

use std::collections::{BTreeMap, BTreeSet};

use pgfleet_api::ComputeId;
use tokio::time::Instant;

/// A later entry for a compute takes the place of the one before.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeSet<(Instant, ComputeId)>,
    by_compute: BTreeMap<ComputeId, Instant>,
}

impl Agenda {
    pub(super) fn set(&mut self, id: ComputeId, at: Instant) {
        self.remove(&id);
        self.by_compute.insert(id.clone(), at);
        self.by_time.insert((at, id));
    }

    pub(super) fn remove(&mut self, id: &ComputeId) {
        if let Some(at) = self.by_compute.remove(id) {
            self.by_time.remove(&(at, id.clone()));
        }
    }

    /// When the next one is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<ComputeId> {
        let (_, id) = self.by_time.first().filter(|(at, _)| *at <= now)?.clone();
        self.remove(&id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_time_per_compute() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let (a, b): (ComputeId, ComputeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let at = |seconds| now + Duration::from_secs(seconds);
        agenda.set(a.clone(), at(1));
        agenda.set(b.clone(), at(2));
        agenda.set(a.clone(), at(3));
        assert_eq!(agenda.due(), Some(at(2)));
        assert_eq!(agenda.take_due(at(1)), None);
        assert_eq!(agenda.take_due(at(9)), Some(b.clone()));
        agenda.set(b.clone(), at(4));
        agenda.remove(&b);
        assert_eq!(agenda.take_due(at(9)), Some(a));
        assert_eq!((agenda.take_due(at(9)), agenda.due()), (None, None));
    }
}
