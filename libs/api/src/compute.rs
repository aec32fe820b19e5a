//! What clients of the controller say and read about computes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::agent::{AgentStatus, ComputeState, ErrorDetail, PostgresInfo};
use crate::availability::Availability;
use crate::bulk::WatchEvent;
use crate::ids::{BootId, ComputeId, Generation, SpecHash, Term};
use crate::policy::Policy;

/// `PUT /control/v1/compute/{id}`: register a compute or change it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterCompute {
    /// Base URL of the agent, like `http://10.0.0.7:3080`.
    pub agent_url: String,
    /// Labels for selection; at most 32, of at most 63 bytes each.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// A first or new spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub spec: Option<Value>,
}

/// Answer to an accepted spec (202): it is in the database and will be pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpecAccepted {
    /// Its counter; also the `ETag`.
    pub generation: Generation,
    /// Its content.
    pub spec_hash: SpecHash,
    /// Fields of it that no agent of this version acts on.
    pub ignored_fields: Vec<String>,
}

/// What an agent last said, as the controller keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Observed {
    /// State of the compute.
    pub state: ComputeState,
    /// Which life of the agent said so.
    pub boot_id: BootId,
    /// How many changes that life had had.
    pub status_seq: u64,
    /// Highest term in the agent's ledger.
    pub term: Option<Term>,
    /// Highest generation the agent accepted.
    pub generation: Option<Generation>,
    /// Last generation fully in effect.
    pub applied_generation: Option<Generation>,
    /// Last generation that was given up.
    pub rejected_generation: Option<Generation>,
    /// Content of `generation`.
    pub spec_hash: Option<SpecHash>,
    /// Settings that wait for a restart of PostgreSQL.
    #[serde(default)]
    pub pending_restart: Vec<String>,
    /// Fields the agent does not act on.
    #[serde(default)]
    pub ignored_fields: Vec<String>,
    /// Why the last action failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Where it failed.
    #[serde(default)]
    pub error_detail: Option<ErrorDetail>,
    /// Everything that failed, as far as the agent lists it; `error_detail` is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<ErrorDetail>,
    /// The server, while it runs.
    #[serde(default)]
    pub postgres: Option<PostgresInfo>,
}

impl From<AgentStatus> for Observed {
    fn from(status: AgentStatus) -> Self {
        Self {
            state: status.status,
            boot_id: status.boot_id,
            status_seq: status.status_seq,
            term: status.term,
            generation: status.generation,
            applied_generation: status.applied_generation,
            rejected_generation: status.rejected_generation,
            spec_hash: status.spec_hash,
            pending_restart: status.pending_restart,
            ignored_fields: status.ignored_fields,
            error: status.error,
            error_detail: status.error_detail,
            failures: status.failures,
            postgres: status.postgres,
        }
    }
}

/// `GET /control/v1/compute/{id}`: intent beside observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComputeView {
    /// Its name.
    pub compute_id: ComputeId,
    /// Where its agent is reached.
    pub agent_url: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Counter of the spec asked for; 0 without a spec.
    pub generation: Generation,
    /// Content of the spec asked for.
    pub spec_hash: Option<SpecHash>,
    /// Last generation fully in effect, as far as known.
    pub applied_generation: Option<Generation>,
    /// `generation - applied_generation`.
    pub lag: i64,
    /// What the agent last said; null before it was ever reached.
    pub observed: Option<Observed>,
    /// Why the last push or probe failed; null after a good one.
    pub last_error: Option<String>,
    /// Set while the compute is left alone: work on it panicked too often, or its agent says what is beyond belief.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<QuarantineView>,
    /// Whether its agent answers the leader; null where nobody can say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    /// How far the leader may go with it by itself.
    #[serde(default)]
    pub policy: Policy,
    /// When this compute was registered.
    pub created_at: DateTime<Utc>,
    /// When its spec, registration or policy last changed.
    pub updated_at: DateTime<Utc>,
}

/// Why and how long a compute is left alone: a defect of the controller met it again and again, or its agent has a term or a
/// generation that is no lost commit; what an operator changes about such a compute ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuarantineView {
    /// Since when.
    pub since: DateTime<Utc>,
    /// When one try is made; until then there are no pushes and no probes.
    pub next_try_at: DateTime<Utc>,
    /// Tries made so far.
    pub tries: u32,
    /// What the last panic said, or what its agent says.
    pub reason: String,
}

/// `GET /control/v1/compute/{id}/spec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpecView {
    /// Counter.
    pub generation: Generation,
    /// Content hash.
    pub spec_hash: SpecHash,
    /// The spec as it was put.
    #[schema(value_type = Object)]
    pub spec: Value,
}

/// One page of `GET /control/v1/compute`, ordered by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComputeList {
    /// The computes of this page.
    pub computes: Vec<ComputeView>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<ComputeId>,
}

/// Query of `GET /control/v1/compute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only computes in this state.
    pub state: Option<ComputeState>,
    /// Only computes with this label, as `key=value`.
    pub label: Option<String>,
    /// Only computes whose spec is not applied.
    pub lagging: Option<bool>,
    /// Page size, 1 to 1000; default 100.
    pub limit: Option<u32>,
    /// Begin after this id.
    pub cursor: Option<ComputeId>,
}

/// Query of `GET /control/v1/compute/{id}/history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Page size, 1 to 1000; default 100.
    pub limit: Option<u32>,
    /// Only changes before this one.
    pub cursor: Option<i64>,
    /// Only lines from this moment on, like `2026-11-24T10:00:00Z`; by the database's clock.
    pub since: Option<DateTime<Utc>>,
    /// Only lines before this moment.
    pub until: Option<DateTime<Utc>>,
    /// Only lines of this kind: `action` or `transition`.
    pub kind: Option<String>,
}

/// One page of `GET /control/v1/compute/{id}/history`: what the journal has of a compute, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryPage {
    /// The lines of this page.
    pub lines: Vec<WatchEvent>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<i64>,
}

/// Query of `GET /control/v1/compute/{id}/wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    /// Wait until this generation, or a later one, is settled; default: the current one.
    pub generation: Option<Generation>,
    /// Seconds, 0 to 600; default 60.
    pub timeout_s: Option<u64>,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitOutcome {
    /// The generation, or a later one, is in effect and the compute runs.
    Applied,
    /// The agent gave the generation up.
    Rejected,
    /// The compute failed while on it.
    Failed,
    /// Time ran out first.
    Timeout,
}

/// Answer of `GET /control/v1/compute/{id}/wait`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WaitResult {
    /// How it ended.
    pub outcome: WaitOutcome,
    /// The generation that was waited for.
    pub generation: Generation,
    /// The compute as it stands.
    pub compute: ComputeView,
}
