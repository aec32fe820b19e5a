//! What the engine counts.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, Gauge, Histogram, LabelGroup, MetricGroup};

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub enum PassOutcome {
    /// Nothing was to be done.
    Rest,
    /// A spec was handed over.
    Pushed,
    /// The agent was asked and works on it.
    Waiting,
    /// It was ended because nobody used it.
    Suspended,
    /// It failed and is tried again later.
    Failed,
    /// The leadership ended under it.
    Cancelled,
    /// A defect of ours; the compute is tried again later.
    Panic,
}

#[derive(LabelGroup)]
#[label(set = PassSet)]
struct Pass {
    outcome: PassOutcome,
}

/// How an attempt to end a compute that nobody uses went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub enum Suspension {
    /// It was ended.
    Done,
    /// Its agent saw that it was used since.
    NotIdle,
    /// The agent could not be asked, or refused for another reason.
    Failed,
}

#[derive(LabelGroup)]
#[label(set = SuspensionSet)]
struct ByOutcome {
    outcome: Suspension,
}

/// Whose work on a compute panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub enum Room {
    /// A pass of the engine.
    Reconcile,
    /// A probe of the window's sweep.
    Observe,
}

impl Room {
    /// The room's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reconcile => "reconcile",
            Self::Observe => "observe",
        }
    }
}

#[derive(LabelGroup)]
#[label(set = RoomSet)]
struct ByRoom {
    room: Room,
}

/// Passes of the engine.
#[derive(MetricGroup)]
#[metric(new())]
pub struct ReconcileMetrics {
    /// Passes over computes, by outcome.
    reconcile_passes_total: CounterVec<PassSet>,
    /// Time of one pass.
    #[metric(metadata = Thresholds::exponential_buckets(0.001, 2.5))]
    reconcile_duration_seconds: Histogram<12>,
    /// Computes waiting for a place.
    reconcile_queue: Gauge,
    /// Passes under way.
    reconcile_in_flight: Gauge,
    /// Computes that failed and wait for their next try.
    reconcile_backing_off: Gauge,
    /// Attempts to end computes that nobody uses, by outcome.
    suspensions_total: CounterVec<SuspensionSet>,
    /// Panics in the work on a compute, by room.
    compute_panics_total: CounterVec<RoomSet>,
    /// Computes left alone: work on them panicked too often, or their agents say what is beyond belief.
    computes_quarantined: Gauge,
}

impl ReconcileMetrics {
    /// A pass ended.
    pub fn passed(&self, outcome: PassOutcome, took: Duration) {
        self.reconcile_passes_total.inc(Pass { outcome });
        self.reconcile_duration_seconds.get_metric().observe(took.as_secs_f64());
    }

    /// An attempt to suspend a compute ended.
    pub fn suspended(&self, outcome: Suspension) {
        self.suspensions_total.inc(ByOutcome { outcome });
    }

    /// Work on a compute panicked.
    pub fn compute_panicked(&self, room: Room) {
        self.compute_panics_total.inc(ByRoom { room });
    }

    /// How many computes are quarantined.
    pub fn quarantined(&self, computes: usize) {
        self.computes_quarantined.get_metric().set(i64::try_from(computes).unwrap_or(i64::MAX));
    }

    /// How full the engine is.
    pub fn filled(&self, queued: usize, in_flight: usize, backing_off: usize) {
        let set = |gauge: &Gauge, n: usize| gauge.get_metric().set(i64::try_from(n).unwrap_or(i64::MAX));
        set(&self.reconcile_queue, queued);
        set(&self.reconcile_in_flight, in_flight);
        set(&self.reconcile_backing_off, backing_off);
    }
}
