//! Numbers of the mind.

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, Gauge, Histogram, LabelGroup, MetricGroup};
use pgfleet_api::agent::{AgentStatus, PullResponse};
use pgfleet_clients::controller::ControllerError;

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
    NoSource,
    Unable,
}

/// What the control plane is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
enum Rpc {
    #[label(rename = "GetConfig")]
    GetConfig,
}

/// How it answers, as the reference writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
enum Answered {
    #[label(rename = "200 OK")]
    Ok,
    #[label(rename = "401 Unauthorized")]
    Unauthorized,
    #[label(rename = "403 Forbidden")]
    Forbidden,
    #[label(rename = "404 Not Found")]
    NotFound,
    #[label(rename = "409 Conflict")]
    Conflict,
    #[label(rename = "4xx")]
    OtherOfClient,
    #[label(rename = "500 Internal Server Error")]
    Internal,
    #[label(rename = "5xx")]
    OtherOfServer,
    /// No answer, or none that is understood.
    #[label(rename = "unknown")]
    Unknown,
}

impl From<u16> for Answered {
    fn from(status: u16) -> Self {
        match status {
            200 => Self::Ok,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            409 => Self::Conflict,
            400..=499 => Self::OtherOfClient,
            500 => Self::Internal,
            501..=599 => Self::OtherOfServer,
            _ => Self::Unknown,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = PullSet)]
struct Pull {
    rpc: Rpc,
    http_status: Answered,
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
    /// Questions to the control plane by what was asked and how it answered.
    cplane_requests_total: CounterVec<PullSet>,
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
            cplane_requests_total: CounterVec::with_label_set(PullSet::new()),
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

    pub(super) fn pulled(&self, answer: &Result<PullResponse, ControllerError>) {
        let http_status = match answer {
            Ok(_) => Answered::Ok,
            Err(ControllerError::Refused { status, .. } | ControllerError::NotAllowed { status, .. }) => {
                (*status).into()
            }
            Err(
                ControllerError::Garbled { .. }
                | ControllerError::Unavailable { .. }
                | ControllerError::OutcomeUnknown { .. }
                | ControllerError::Token(_)
                | ControllerError::Body(_),
            ) => Answered::Unknown,
        };
        self.cplane_requests_total.inc(Pull { rpc: Rpc::GetConfig, http_status });
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
            Refusal::NoSource => Reason::NoSource,
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
