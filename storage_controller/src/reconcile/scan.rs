//! The first look of a leadership at the whole fleet, a page at a time, so that beginning to lead costs the same whatever
//! the fleet's size.

use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_domain::policy::step;

use tokio::time::Instant;

use super::suspend::timeout;
use crate::observe::{Entry, Filter, Snapshot};

/// Computes looked at in one step.
const PAGE: usize = 256;
/// Between two steps: right after a hand-over the processors belong to whoever has waited for it.
const PACE: Duration = Duration::from_millis(2);

/// How far the look has come.
#[derive(Debug, Default)]
pub(super) struct Scan {
    last: Option<ComputeId>,
    over: bool,
    due: Option<Instant>,
}

impl Scan {
    /// Whether every compute was looked at.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// When the next page is due.
    pub(super) fn due(&self) -> Instant {
        self.due.unwrap_or_else(Instant::now)
    }

    /// Of the next page, those that need a pass now, and those that rest and may be suspended, with their timeouts.
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> (Vec<ComputeId>, Vec<(ComputeId, Duration)>) {
        let (page, more) = snapshot.page(&Filter::default(), self.last.as_ref(), PAGE);
        self.last = page.last().map(|entry| entry.record.compute_id.clone());
        self.over = !more;
        self.due = Some(Instant::now() + PACE);
        let (needy, resting): (Vec<_>, Vec<_>) = page.into_iter().partition(|entry| needs_a_pass(entry));
        let id = |entry: &Entry| entry.record.compute_id.clone();
        let needy = needy.iter().map(|entry| id(entry)).collect();
        (needy, resting.iter().filter_map(|entry| Some((id(entry), timeout(entry)?))).collect())
    }
}

fn needs_a_pass(entry: &Entry) -> bool {
    !step(entry.record.policy, &entry.intent(), entry.observed.as_deref()).rests()
}
