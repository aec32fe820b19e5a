//! Numbers of the hands.

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, HistogramVec, LabelGroup, MetricGroup};

use super::plan::Phase;

/// How an object's change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub(super) enum ObjectOutcome {
    Done,
    Failed,
}

#[derive(LabelGroup)]
#[label(set = ObjectSet)]
pub(super) struct Object {
    pub(super) phase: Phase,
    pub(super) outcome: ObjectOutcome,
}

#[derive(LabelGroup)]
#[label(set = PhaseSet)]
pub(super) struct InPhase {
    pub(super) phase: Phase,
}

/// Changes of roles and databases.
#[derive(MetricGroup)]
pub struct ApplyMetrics {
    /// Roles and databases created or altered, by outcome.
    pub(super) objects_total: CounterVec<ObjectSet>,
    /// Time for all changes of one phase.
    pub(super) phase_duration_seconds: HistogramVec<PhaseSet, 10>,
}

impl Default for ApplyMetrics {
    fn default() -> Self {
        Self {
            objects_total: CounterVec::with_label_set(ObjectSet::new()),
            phase_duration_seconds: HistogramVec::with_label_set_and_metadata(
                PhaseSet::new(),
                Thresholds::exponential_buckets(0.002, 2.5),
            ),
        }
    }
}
