//! What is said about many computes at once: the watch of all changes, and the bulk upsert.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::ErrorBody;
use crate::ids::{ComputeId, Generation, SpecHash, Term};
use crate::plan::{DryVerdict, PlanResponse};

/// Query of `GET /control/v1/watch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchQuery {
    /// Number of the last change that is known already; default: that of the header `Last-Event-ID`, else now.
    pub from: Option<i64>,
}

/// One line of the journal: an event of `GET /control/v1/watch`, whose id is `change_seq`, and a line of a compute's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WatchEvent {
    /// Its place in the order of all changes; each is there once, and some numbers are missing.
    pub change_seq: i64,
    /// When it was committed, by the database's clock.
    pub at: DateTime<Utc>,
    /// The compute it is about; none for what concerns the fleet.
    pub compute_id: Option<ComputeId>,
    /// The leadership that wrote it.
    pub term: Term,
    /// `action`: somebody asked for something. `transition`: an agent reported something new.
    pub kind: String,
    /// Who: the subject of a token, or the agent.
    pub actor: String,
    /// Why, if it was said.
    pub reason: Option<String>,
    /// What.
    #[schema(value_type = Object)]
    pub detail: Value,
}

/// Query of `POST /control/v1/compute/apply`; what is not understood is refused, not ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyQuery {
    /// Write nothing, push nothing: say of each line what it would come to.
    #[serde(default)]
    pub dry_run: bool,
}

/// One line that goes into `POST /control/v1/compute/apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyLine {
    /// Which compute.
    pub compute_id: ComputeId,
    /// Registers it under this base URL of its agent, or changes its registration; without it the compute is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_url: Option<String>,
    /// Labels; they belong to a registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// A first or new spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub spec: Option<Value>,
    /// The generation that is believed to be current; only without a registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<Generation>,
}

/// What came of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplyOutcome {
    /// It is in the database.
    Applied,
    /// It was so already.
    Unchanged,
    /// A rule refuses it; the error says which.
    Refused,
    /// It may or may not be in the database.
    OutcomeUnknown,
    /// It is not in the database and may be sent again.
    NotExecuted,
    /// A dry run: nothing was done, and the verdict says what would be.
    Planned,
}

/// One line that comes out of `POST /control/v1/compute/apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApplyResult {
    /// Number of the line that went in, from 1; empty lines count and have no result.
    pub line: u64,
    /// Its compute, if it can be read.
    pub compute_id: Option<ComputeId>,
    /// What came of it.
    pub outcome: ApplyOutcome,
    /// The compute's generation now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The compute's content now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<SpecHash>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// Of a dry run: what the line would come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<DryVerdict>,
    /// Of a dry run: what the agent says it would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanResponse>,
}
