//! Numbers of the mind.

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, Gauge, Histogram, LabelGroup, MetricGroup};
use pgfleet_api::agent::AgentStatus;

use super::handle::{Outcome, Refusal};

/// What came of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub(super) enum ConfigureOutcome {
    Applied,
    Failed,
    Superseded,
    Ended,
    /// It was in effect or given up already.
    Repeated,
}

/// Why a spec was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
enum Reason {
    ForeignCluster,
    WrongCompute,
    StaleTerm,
    StaleGeneration,
    FenceConflict,
    FenceRequired,
    InvalidSpec,
    NotReplica,
    Ending,
    Unable,
}

#[derive(LabelGroup)]
#[label(set = OutcomeSet)]
struct ByOutcome {
    outcome: ConfigureOutcome,
}

#[derive(LabelGroup)]
#[label(set = ReasonSet)]
struct ByReason {
    reason: Reason,
}

/// Specs taken, refused and applied.
#[derive(MetricGroup)]
pub struct LifecycleMetrics {
    /// Accepted specs by how they ended.
    configures_total: CounterVec<OutcomeSet>,
    /// Specs that were not taken, by reason.
    refusals_total: CounterVec<ReasonSet>,
    /// Time to apply a spec, from its begin to its end.
    configure_duration_seconds: Histogram<12>,
    /// Term in the ledger, 0 before the first.
    term: Gauge,
    /// Last accepted generation, 0 before the first.
    generation: Gauge,
    /// Last generation fully in effect, 0 before the first.
    applied_generation: Gauge,
    /// Settings that wait for a restart of PostgreSQL.
    pending_restart_settings: Gauge,
}

impl Default for LifecycleMetrics {
    fn default() -> Self {
        Self {
            configures_total: CounterVec::with_label_set(OutcomeSet::new()),
            refusals_total: CounterVec::with_label_set(ReasonSet::new()),
            configure_duration_seconds: Histogram::with_metadata(Thresholds::exponential_buckets(0.005, 2.5)),
            term: Gauge::new(),
            generation: Gauge::new(),
            applied_generation: Gauge::new(),
            pending_restart_settings: Gauge::new(),
        }
    }
}

impl LifecycleMetrics {
    pub(super) fn took(&self, duration: Duration) {
        self.configure_duration_seconds.observe(duration.as_secs_f64());
    }

    pub(super) fn ended(&self, outcome: ConfigureOutcome) {
        self.configures_total.inc(ByOutcome { outcome });
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        use pgfleet_domain::fence::Refusal as Rule;
        let reason = match refusal {
            Refusal::Fence { refusal: Rule::ForeignCluster, .. } => Reason::ForeignCluster,
            Refusal::Fence { refusal: Rule::WrongCompute, .. } => Reason::WrongCompute,
            Refusal::Fence { refusal: Rule::StaleTerm, .. } => Reason::StaleTerm,
            Refusal::Fence { refusal: Rule::StaleGeneration, .. } => Reason::StaleGeneration,
            Refusal::Fence { refusal: Rule::Conflict, .. } => Reason::FenceConflict,
            Refusal::FenceRequired { .. } => Reason::FenceRequired,
            Refusal::Content { .. } => Reason::InvalidSpec,
            Refusal::NotReplica => Reason::NotReplica,
            Refusal::Ending(_) | Refusal::Gone => Reason::Ending,
            Refusal::Unable(_) => Reason::Unable,
        };
        self.refusals_total.inc(ByReason { reason });
    }

    /// Shows the published status as gauges.
    pub(super) fn show(&self, status: &AgentStatus) {
        self.term.get_metric().set(status.term.map_or(0, |term| term.0));
        self.generation.get_metric().set(status.generation.map_or(0, |generation| generation.0));
        self.applied_generation.get_metric().set(status.applied_generation.map_or(0, |generation| generation.0));
        let waiting = i64::try_from(status.pending_restart.len()).unwrap_or(i64::MAX);
        self.pending_restart_settings.get_metric().set(waiting);
    }
}

impl From<Outcome> for ConfigureOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::Failed => Self::Failed,
            Outcome::Superseded => Self::Superseded,
            Outcome::Ended => Self::Ended,
        }
    }
}
