//! What came of a plan: counted, logged and kept, object by object.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use pgfleet_api::agent::ErrorDetail;

use super::metrics::{ApplyMetrics, Object, ObjectOutcome};
use super::phase::Phase;
use super::step::Step;

/// An object that could not be made as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFailure {
    /// Its phase.
    pub phase: Phase,
    /// Its name.
    pub object: String,
    /// PostgreSQL's code, where it answered.
    pub sqlstate: Option<String>,
    /// PostgreSQL's message.
    pub message: String,
}

impl From<ObjectFailure> for ErrorDetail {
    fn from(failure: ObjectFailure) -> Self {
        Self {
            phase: failure.phase.as_str().to_owned(),
            object: Some(failure.object),
            sqlstate: failure.sqlstate,
            message: failure.message,
        }
    }
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many objects were changed.
    pub done: usize,
    /// What could not be, in the plan's order.
    pub failures: Vec<ObjectFailure>,
}

/// A step is known again by these.
type Key = (Phase, String, Option<String>);

fn key(step: &Step) -> Key {
    (step.phase, step.object.clone(), step.database.clone())
}

/// What has been done so far, over all attempts; sessions that work side by side share it.
pub(super) struct Tally<'a> {
    metrics: &'a ApplyMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outcome: Outcome,
    failed: BTreeSet<Key>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(metrics: &'a ApplyMetrics) -> Self {
        Self { metrics, state: Mutex::default() }
    }

    pub(super) fn into_outcome(self) -> Outcome {
        let mut outcome = self.state.into_inner().unwrap_or_else(PoisonError::into_inner).outcome;
        outcome.failures.sort_by_key(|failure| failure.phase);
        outcome
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nothing was changed.
    pub(super) fn is_empty(&self) -> bool {
        self.with(|state| state.outcome.done == 0)
    }

    pub(super) fn has_failed(&self, step: &Step) -> bool {
        self.with(|state| state.failed.contains(&key(step)))
    }

    pub(super) fn any_failed(&self, phase: Phase) -> bool {
        self.with(|state| state.outcome.failures.iter().any(|failure| failure.phase == phase))
    }

    pub(super) fn done(&self, step: &Step) {
        let Step { phase, object, words, .. } = step;
        tracing::info!(phase = phase.as_str(), object, "{} {object:?}: {words:?} is done", phase.as_str());
        self.with(|state| state.outcome.done += 1);
        self.metrics.objects.objects_total.inc(Object { phase: *phase, outcome: ObjectOutcome::Done });
    }

    pub(super) fn failed(&self, step: &Step, sqlstate: Option<String>, message: String) {
        let Step { phase, object, database, .. } = step;
        let message = match database {
            Some(database) => format!("in database {database:?}: {message}"),
            None => message,
        };
        tracing::warn!(phase = phase.as_str(), object, sqlstate, "{} {object:?}: {message}", phase.as_str());
        let failure = ObjectFailure { phase: *phase, object: object.clone(), sqlstate, message };
        self.with(|state| {
            state.failed.insert(key(step));
            state.outcome.failures.push(failure);
        });
        self.metrics.objects.objects_total.inc(Object { phase: *phase, outcome: ObjectOutcome::Failed });
    }
}
