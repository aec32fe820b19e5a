//! The first look of a leadership at the whole fleet, a page at a time, so that beginning to lead costs the same whatever
//! the fleet's size. What the last leader left unfinished is known from memory and comes first.

use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_domain::policy::step;

use tokio::time::Instant;

use super::queue::Priority;
use super::suspend::timeout;
use crate::observe::{Entry, Filter, Snapshot};

/// Computes looked at in one step.
const PAGE: usize = 256;
/// Between two steps: right after a hand-over the processors belong to whoever has waited for it.
const PACE: Duration = Duration::from_millis(2);

/// How far the look has come.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Those that lag were all looked at.
    is_past_lagging: bool,
    last: Option<ComputeId>,
    over: bool,
    due: Option<Instant>,
}

/// What a step has found.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Computes that need a pass now.
    pub(super) needy: Vec<(ComputeId, Priority)>,
    /// Those that rest and may be suspended, with their timeouts.
    pub(super) resting: Vec<(ComputeId, Duration)>,
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

    /// The next step.
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> Page {
        self.due = Some(Instant::now() + PACE);
        if self.is_past_lagging { self.all(snapshot) } else { self.lagging(snapshot) }
    }

    fn lagging(&mut self, snapshot: &Snapshot) -> Page {
        let ids = snapshot.lagging_page(self.last.as_ref(), PAGE);
        self.last = ids.last().cloned();
        if ids.len() < PAGE {
            (self.is_past_lagging, self.last) = (true, None);
        }
        Page { needy: ids.into_iter().map(|id| (id, Priority::Repair)).collect(), resting: Vec::new() }
    }

    fn all(&mut self, snapshot: &Snapshot) -> Page {
        let (page, more) = snapshot.page(&Filter::default(), self.last.as_ref(), PAGE);
        self.last = page.last().map(|entry| entry.record.compute_id.clone());
        self.over = !more;
        let mut found = Page::default();
        for entry in page {
            let id = || entry.record.compute_id.clone();
            if needs_a_pass(&entry) {
                found.needy.push((id(), Priority::Drift));
            } else if let Some(timeout) = timeout(&entry) {
                found.resting.push((id(), timeout));
            }
        }
        found
    }
}

fn needs_a_pass(entry: &Entry) -> bool {
    !step(entry.record.policy, &entry.intent(), entry.observed.as_deref()).rests()
}
