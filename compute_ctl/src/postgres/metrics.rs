//! Numbers of the body.

use measured::metric::histogram::Thresholds;
use measured::{Counter, CounterVec, FixedCardinalityLabel, Histogram, LabelGroup, MetricGroup};

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub enum StartOutcome {
    /// PostgreSQL is ready.
    Ready,
    /// A running one was found and kept.
    Adopted,
    /// It ended before it was ready.
    Failed,
}

#[derive(LabelGroup)]
#[label(set = StartSet)]
pub(super) struct Start {
    pub(super) outcome: StartOutcome,
}

/// Starts and ends of PostgreSQL.
#[derive(MetricGroup)]
pub struct PostgresMetrics {
    /// Starts of PostgreSQL by outcome.
    pub(super) starts_total: CounterVec<StartSet>,
    /// Ends of PostgreSQL that nobody asked for.
    pub(super) crashes_total: Counter,
    /// Time from the start of the process until it takes connections.
    pub(super) start_duration_seconds: Histogram<10>,
}

impl PostgresMetrics {
    pub(super) fn new_zero() -> Self {
        let metrics = Self {
            starts_total: CounterVec::with_label_set(StartSet::new()),
            crashes_total: Counter::new(),
            start_duration_seconds: Histogram::with_metadata(Thresholds::exponential_buckets(0.02, 2.0)),
        };
        for outcome in [StartOutcome::Ready, StartOutcome::Adopted, StartOutcome::Failed] {
            metrics.starts_total.inc_by(Start { outcome }, 0);
        }
        metrics
    }

    /// PostgreSQL ended by itself.
    pub fn crashed(&self) {
        self.crashes_total.inc();
    }
}

impl std::fmt::Debug for PostgresMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresMetrics").finish_non_exhaustive()
    }
}
