//! Times in which the database was put back on purpose: what was acknowledged then may be gone.

use crate::calls::{Op, numbered};
use crate::event::{Entry, Event};

/// One time: from the copy that was put back until it was put back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loss {
    pub(crate) since_us: u64,
    pub(crate) until_us: u64,
}

/// All of them, in order.
#[derive(Debug)]
pub(crate) struct Losses(Vec<Loss>);

impl Losses {
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let losses = numbered(entries).filter_map(|(_, entry)| match entry.event {
            Event::CommitsLost { since_us } => Some(Loss { since_us, until_us: entry.at_us }),
            _ => None,
        });
        Self(losses.collect())
    }

    pub(crate) fn all(&self) -> &[Loss] {
        &self.0
    }

    /// Whether something at that moment may have been lost.
    pub(crate) fn cover(&self, at_us: u64) -> bool {
        self.overlap(at_us, at_us)
    }

    /// Whether one lies between these moments, in part or whole.
    pub(crate) fn overlap(&self, from_us: u64, to_us: u64) -> bool {
        self.0.iter().any(|loss| from_us <= loss.until_us && loss.since_us <= to_us)
    }

    /// Whether the effect of that call may have been lost: it was under way at a time that a loss covers.
    pub(crate) fn touch(&self, op: &Op<'_>) -> bool {
        self.overlap(op.called_us, op.answered.map_or(u64::MAX, |answered| answered.at_us))
    }

    /// Whether the database had been put back by then.
    pub(crate) fn before(&self, at_us: u64) -> bool {
        self.0.iter().any(|loss| loss.until_us <= at_us)
    }
}
