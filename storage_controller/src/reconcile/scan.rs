//! The first look of a leadership at the whole fleet, a page at a time, so that beginning to lead costs the same whatever
//! the fleet's size.

use pgfleet_api::ComputeId;
use pgfleet_domain::reconcile::{Intent, Plan, plan};

use crate::observe::{Entry, Filter, Snapshot};

/// Computes looked at in one step.
const PAGE: usize = 256;

/// How far the look has come.
#[derive(Debug, Default)]
pub(super) struct Scan {
    last: Option<ComputeId>,
    over: bool,
}

impl Scan {
    /// Whether every compute was looked at.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Of the next page, those that need a pass.
    pub(super) fn next(&mut self, snapshot: &Snapshot) -> Vec<ComputeId> {
        let (page, more) = snapshot.page(&Filter::default(), self.last.as_ref(), PAGE);
        self.last = page.last().map(|entry| entry.record.compute_id.clone());
        self.over = !more;
        page.iter().filter(|entry| needs_a_pass(entry)).map(|entry| entry.record.compute_id.clone()).collect()
    }
}

fn needs_a_pass(entry: &Entry) -> bool {
    let intent = Intent { generation: entry.record.generation, spec_hash: entry.record.spec_hash.clone() };
    plan(&intent, entry.observed.as_deref()) != Plan::Rest
}
