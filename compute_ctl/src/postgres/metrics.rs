//! Numbers of the body.

use measured::metric::histogram::Thresholds;
use measured::{Counter, CounterVec, FixedCardinalityLabel, Histogram, LabelGroup, MetricGroup};

use super::log::Level;

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
#[label(set = LevelSet)]
struct ByLevel {
    level: Level,
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
    /// Processes of PostgreSQL that a signal ended while the server lived on; each cuts all sessions.
    backend_crashes_total: Counter,
    /// Messages of PostgreSQL's log by level.
    log_messages_total: CounterVec<LevelSet>,
    /// Messages that were too many to be said again; they stand in the file.
    log_left_out_total: Counter,
    /// Time from the start of the process until it takes connections.
    pub(super) start_duration_seconds: Histogram<10>,
}

impl PostgresMetrics {
    pub(super) fn new_zero() -> Self {
        let metrics = Self {
            starts_total: CounterVec::with_label_set(StartSet::new()),
            crashes_total: Counter::new(),
            backend_crashes_total: Counter::new(),
            log_messages_total: CounterVec::with_label_set(LevelSet::new()),
            log_left_out_total: Counter::new(),
            start_duration_seconds: Histogram::with_metadata(Thresholds::exponential_buckets(0.02, 2.0)),
        };
        for outcome in [StartOutcome::Ready, StartOutcome::Adopted, StartOutcome::Failed] {
            metrics.starts_total.inc_by(Start { outcome }, 0);
        }
        for level in [Level::Debug, Level::Info, Level::Warn, Level::Error] {
            metrics.log_messages_total.inc_by(ByLevel { level }, 0);
        }
        metrics
    }

    pub(super) fn logged(&self, level: Level) {
        self.log_messages_total.inc(ByLevel { level });
    }

    pub(super) fn backend_crashed(&self) {
        self.backend_crashes_total.inc();
    }

    pub(super) fn left_out(&self) {
        self.log_left_out_total.inc();
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
