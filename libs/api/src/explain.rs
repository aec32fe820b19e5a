//! Why a compute is as it is: the answer of `GET /control/v1/compute/{id}/explain`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ComputeId, Generation};

/// What decides about a compute at this moment. Names are never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExplainCode {
    /// The generation asked for is in effect.
    Converged,
    /// No spec was asked for.
    NoSpec,
    /// Its policy says hands off.
    Paused,
    /// Its policy says stop, and it is stopped.
    Stopped,
    /// Its policy says stop, and it is not stopped yet.
    Stopping,
    /// It is to be ended once, and is not yet.
    Terminating,
    /// It is left alone: work on it panicked too often, or its agent says what is beyond belief.
    Quarantined,
    /// The leader cannot prove its lease and does nothing.
    LeaseNotProved,
    /// Its agent has a generation, or a content under one, that the database lacks.
    AgentAhead,
    /// Its agent does not answer.
    AgentUnreachable,
    /// Its agent answers, and not with what is wanted: it refuses, takes no token of ours, or is no agent.
    AgentRefuses,
    /// The last try failed for another reason, and the next one waits.
    BackingOff,
    /// Its agent was never heard of.
    NeverReached,
    /// It waits for a place among those that are worked on.
    WaitingForPlace,
    /// It is worked on right now.
    Pushing,
    /// Its agent has the spec and works on it.
    AgentWorks,
    /// Its agent gave the generation up.
    Rejected,
    /// It failed while on the generation.
    Failed,
    /// It was ended; its agent takes no spec until it is started again.
    Ended,
    /// A code this reader does not know.
    #[serde(other)]
    Unknown,
}

impl ExplainCode {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::NoSpec => "no_spec",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Stopping => "stopping",
            Self::Terminating => "terminating",
            Self::Quarantined => "quarantined",
            Self::LeaseNotProved => "lease_not_proved",
            Self::AgentAhead => "agent_ahead",
            Self::AgentUnreachable => "agent_unreachable",
            Self::AgentRefuses => "agent_refuses",
            Self::BackingOff => "backing_off",
            Self::NeverReached => "never_reached",
            Self::WaitingForPlace => "waiting_for_place",
            Self::Pushing => "pushing",
            Self::AgentWorks => "agent_works",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }
}

/// What happens next by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextStep {
    /// What, in words.
    pub says: String,
    /// When at the earliest, if that is known; by the leader's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// The same as a distance from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_ms: Option<u64>,
}

/// `GET /control/v1/compute/{id}/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// Which compute.
    pub compute_id: ComputeId,
    /// Whether the generation asked for is in effect and the compute runs, as far as is known.
    pub converged: bool,
    /// What decides about it.
    pub code: ExplainCode,
    /// Why, in one line.
    pub says: String,
    /// Since when, if that is known; by the leader's clock, and not before it began to lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// What happens next without anybody's doing; absent where nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
    /// What a person can do, where nothing happens by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What else is worth knowing, in one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The generation asked for.
    pub generation: Generation,
    /// The last one fully in effect, as far as is known.
    pub applied_generation: Option<Generation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_wire() {
        for code in
            [ExplainCode::Converged, ExplainCode::LeaseNotProved, ExplainCode::WaitingForPlace, ExplainCode::Ended]
        {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert_eq!(serde_json::from_str::<ExplainCode>("\"from_the_future\"").unwrap(), ExplainCode::Unknown);
    }
}
