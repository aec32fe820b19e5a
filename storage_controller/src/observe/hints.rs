//! Reasons to ask an agent sooner than its turn. A hint is never a fact: it makes a probe, and that is believed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pgfleet_api::ComputeId;
use tokio::sync::Notify;

/// Why it is to be asked; a later one in this order outdoes an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// It was registered or changed.
    Committed,
    /// Its agent says that something has changed.
    Reported,
    /// A pass got no answer of its agent.
    Unanswered,
    /// Its owner wants something new of an agent that does not answer.
    Wanted,
}

/// Hints to the prober. Cheap to clone; never blocks; bounded by the number of computes, because each is held once.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    hints: Arc<Mutex<BTreeMap<ComputeId, Hint>>>,
    nudge: Arc<Notify>,
}

impl Hints {
    /// The agent of a compute reports a change: it is asked soon. The caller has checked that there is such a compute.
    pub fn hint(&self, id: ComputeId) {
        self.note(id, Hint::Reported);
    }

    /// A compute was registered or changed: it is looked after from now on, and asked once when the change has settled.
    pub fn committed(&self, id: ComputeId) {
        self.note(id, Hint::Committed);
    }

    /// A pass got no answer: from now on the prober asks, and wakes the engine with the first answer.
    pub fn unanswered(&self, id: ComputeId) {
        self.note(id, Hint::Unanswered);
    }

    /// Something new is wanted of a compute that does not answer: it is asked at once.
    pub fn wanted(&self, id: ComputeId) {
        self.note(id, Hint::Wanted);
    }

    fn note(&self, id: ComputeId, hint: Hint) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        let known = hints.entry(id).or_insert(hint);
        *known = hint.max(*known);
        drop(hints);
        self.nudge.notify_one();
    }

    pub(super) fn take(&self) -> BTreeMap<ComputeId, Hint> {
        std::mem::take(&mut *self.hints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn given(&self) {
        self.nudge.notified().await;
    }
}
