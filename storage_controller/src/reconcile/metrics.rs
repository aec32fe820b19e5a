//! What the engine counts.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{Counter, CounterVec, FixedCardinalityLabel, Gauge, GaugeVec, Histogram, LabelGroup, MetricGroup};

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
    /// A probe of the window.
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

/// Why a compute is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Kind {
    /// Its owner asked for something new, or its agent works on that.
    Change,
    /// It is known to differ from what is wanted.
    Repair,
    /// It may differ.
    Drift,
}

#[derive(LabelGroup)]
#[label(set = KindSet)]
struct ByPriority {
    priority: Kind,
}

/// How full the engine is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fill {
    /// Computes that wait, in the order of `Priority::ALL`.
    pub(super) queued: [usize; 3],
    /// Passes under way.
    pub(super) in_flight: usize,
    /// Of them those that take long.
    pub(super) slow: usize,
    /// Computes that failed.
    pub(super) backing_off: usize,
    /// Computes that wait for a place at their host.
    pub(super) at_hosts: usize,
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
    /// Computes waiting for a place, by priority.
    reconcile_queue: GaugeVec<KindSet>,
    /// Of them those that wait for a place at their host.
    reconcile_host_queue: Gauge,
    /// Times that a pass waited for a place at its host.
    reconcile_host_waits_total: Counter,
    /// Times that a pass waited for the connect budget.
    reconcile_budget_waits_total: Counter,
    /// Passes under way.
    reconcile_in_flight: Gauge,
    /// Passes under way that take so long that others may begin in their places.
    reconcile_slow: Gauge,
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

    /// A pass waits for a place at its host.
    pub(super) fn waited_for_host(&self) {
        self.reconcile_host_waits_total.get_metric().inc();
    }

    /// A pass waits for the connect budget.
    pub(super) fn waited_for_budget(&self) {
        self.reconcile_budget_waits_total.get_metric().inc();
    }

    /// How full the engine is.
    pub(super) fn filled(&self, fill: &Fill) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let [change, repair, drift] = fill.queued;
        for (priority, n) in [(Kind::Change, change), (Kind::Repair, repair), (Kind::Drift, drift)] {
            self.reconcile_queue.set(ByPriority { priority }, number(n));
        }
        self.reconcile_host_queue.get_metric().set(number(fill.at_hosts));
        self.reconcile_in_flight.get_metric().set(number(fill.in_flight));
        self.reconcile_slow.get_metric().set(number(fill.slow));
        self.reconcile_backing_off.get_metric().set(number(fill.backing_off));
    }

    /// The leadership is over.
    pub(super) fn left(&self) {
        self.quarantined(0);
        self.filled(&Fill::default());
    }
}
