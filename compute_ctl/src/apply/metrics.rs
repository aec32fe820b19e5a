//! Numbers of the hands.

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, HistogramVec, LabelGroup, MetricGroup};

use super::phase::Phase;
use super::upkeep::Migration;

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

#[derive(LabelGroup)]
#[label(set = MigrationSet)]
pub(super) struct FailedMigration {
    pub(super) migration_id: Migration,
}

/// The room's groups.
#[derive(MetricGroup, Default)]
pub struct ApplyMetrics {
    /// Objects of specs.
    #[metric(namespace = "apply")]
    pub(super) objects: ObjectMetrics,
    /// The agent's own migrations.
    #[metric(flatten)]
    pub(super) migrations: MigrationMetrics,
}

/// Changes of roles, databases and what is in them.
#[derive(MetricGroup)]
pub(super) struct ObjectMetrics {
    /// Objects changed, by outcome.
    pub(super) objects_total: CounterVec<ObjectSet>,
    /// Time for all changes of one phase; phases without a change are not counted.
    pub(super) phase_duration_seconds: HistogramVec<PhaseSet, 10>,
}

/// The reference's name for it.
#[derive(MetricGroup)]
pub(super) struct MigrationMetrics {
    /// Migrations inside PostgreSQL that failed; each is tried again with the next spec.
    pub(super) db_migration_failed_total: CounterVec<MigrationSet>,
}

impl Default for ObjectMetrics {
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

impl Default for MigrationMetrics {
    fn default() -> Self {
        Self { db_migration_failed_total: CounterVec::with_label_set(MigrationSet::new()) }
    }
}
