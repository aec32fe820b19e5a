//! The nudge: "look at this compute again". Bounded by the number of computes, because a set holds each id once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pgfleet_api::ComputeId;
use tokio::sync::Notify;

/// How a wake treats a compute that backs off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// It waits for its time.
    Patient,
    /// Something new was asked for: its failures so far say nothing about it.
    Fresh,
}

/// Wakes the engine. Cheap to clone; never blocks.
#[derive(Debug, Clone, Default)]
pub struct Waker {
    dirty: Arc<Mutex<BTreeMap<ComputeId, Urgency>>>,
    nudge: Arc<Notify>,
}

impl Waker {
    /// Asks for a pass over this compute, after its back-off if it has one.
    pub fn wake(&self, id: ComputeId) {
        self.note(id, Urgency::Patient);
    }

    /// Asks for a pass now: the owner wants something new.
    pub fn wake_now(&self, id: ComputeId) {
        self.note(id, Urgency::Fresh);
    }

    fn note(&self, id: ComputeId, urgency: Urgency) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let known = dirty.entry(id).or_insert(urgency);
        *known = urgency.max(*known);
        drop(dirty);
        self.nudge.notify_one();
    }

    pub(super) fn take(&self) -> BTreeMap<ComputeId, Urgency> {
        std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn woken(&self) {
        self.nudge.notified().await;
    }
}
