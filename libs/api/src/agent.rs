//! The agent's wire: what a controller, an operator's curl and the agent say to each other.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::activity::{Activity, Downtime};
use crate::error::ErrorBody;
use crate::ids::{BootId, ComputeId, Fence, Generation, SpecHash, Term};
use crate::lsn::Lsn;
use crate::resources::Resources;

/// State of a compute, under its wire name. The edges between them are `domain::lifecycle::transition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComputeState {
    /// Started without a spec; waits for one.
    Empty,
    /// A spec was accepted and waits to be applied.
    ConfigurationPending,
    /// A spec is being applied.
    Configuration,
    /// PostgreSQL is being started.
    Init,
    /// PostgreSQL serves and the spec is applied.
    Running,
    /// A pull of the spec was asked for.
    RefreshConfigurationPending,
    /// A pulled spec is being applied.
    RefreshConfiguration,
    /// The last action failed; the next spec leads out of it.
    Failed,
    /// Ends; the process stays for 30 s so that its status can be read.
    TerminationPendingFast,
    /// Ends at once.
    TerminationPendingImmediate,
    /// PostgreSQL is stopped for good.
    Terminated,
}

impl ComputeState {
    /// Every state, for tables and metrics.
    pub const ALL: [Self; 11] = [
        Self::Empty,
        Self::ConfigurationPending,
        Self::Configuration,
        Self::Init,
        Self::Running,
        Self::RefreshConfigurationPending,
        Self::RefreshConfiguration,
        Self::Failed,
        Self::TerminationPendingFast,
        Self::TerminationPendingImmediate,
        Self::Terminated,
    ];

    /// The wire name, with underscores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::ConfigurationPending => "configuration_pending",
            Self::Configuration => "configuration",
            Self::Init => "init",
            Self::Running => "running",
            Self::RefreshConfigurationPending => "refresh_configuration_pending",
            Self::RefreshConfiguration => "refresh_configuration",
            Self::Failed => "failed",
            Self::TerminationPendingFast => "termination_pending_fast",
            Self::TerminationPendingImmediate => "termination_pending_immediate",
            Self::Terminated => "terminated",
        }
    }
}

/// `POST /configure`. Unknown fields are tolerated: the reference's clients send more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigureRequest {
    /// The spec, as its owner wrote it.
    pub spec: Value,
    /// Proof of the intent. Without it a spec is taken only while the ledger holds no fence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Key material of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_ctl_config: Option<ComputeCtlConfig>,
}

/// Key material that travels with a spec.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ComputeCtlConfig {
    /// A JSON Web Key Set of Ed25519 public keys.
    #[serde(default)]
    pub jwks: Value,
}

/// Whether the control plane has a spec for a compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// It has none: wait.
    Empty,
    /// It has one.
    Attached,
}

/// Answer of `GET /compute/api/v2/computes/{id}/spec`, the agent's pull.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PullResponse {
    /// Whether there is a spec.
    pub status: Attachment,
    /// The spec.
    #[schema(value_type = Option<Object>)]
    pub spec: Option<Value>,
    /// The intent's proof; it passes the same rule as a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Key material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub compute_ctl_config: Option<ComputeCtlConfig>,
}

/// `GET /status` of the agent. The first six fields are the reference's and always there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// When the agent started, or got its first spec if it started empty.
    pub start_time: DateTime<Utc>,
    /// Always null on stock PostgreSQL.
    pub tenant: Option<String>,
    /// Always null on stock PostgreSQL.
    pub timeline: Option<String>,
    /// The state.
    pub status: ComputeState,
    /// Last activity seen in PostgreSQL; null before the first. It only moves forward and is not counted by `status_seq`.
    pub last_active: Option<DateTime<Utc>>,
    /// Why the last action failed, in one line.
    pub error: Option<String>,

    /// The compute this agent owns.
    pub compute_id: ComputeId,
    /// This life of the agent.
    pub boot_id: BootId,
    /// Grows by one at every change of this document.
    pub status_seq: u64,
    /// Highest term in the ledger.
    pub term: Option<Term>,
    /// Highest generation accepted.
    pub generation: Option<Generation>,
    /// Last generation fully in effect.
    pub applied_generation: Option<Generation>,
    /// Last generation that failed and was given up.
    pub rejected_generation: Option<Generation>,
    /// Content of `generation`.
    pub spec_hash: Option<SpecHash>,
    /// Settings that need a restart of PostgreSQL to take effect.
    pub pending_restart: Vec<String>,
    /// Fields of the spec that this agent does not act on.
    pub ignored_fields: Vec<String>,
    /// The server, while it runs.
    pub postgres: Option<PostgresInfo>,
    /// Where the last action failed.
    pub error_detail: Option<ErrorDetail>,
    /// Every object that the last application of a spec could not make as wanted, in order, at most
    /// [`AgentStatus::FAILURES_SHOWN`]; `error_detail` is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<ErrorDetail>,
    /// Whether PostgreSQL is in use; absent while nothing watches it. Not counted by `status_seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// How long PostgreSQL did not answer. Not counted by `status_seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Downtime>,
    /// Memory and pressure, read when the status was asked for; not part of what `status_seq` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

impl AgentStatus {
    /// How many failures a status lists.
    pub const FAILURES_SHOWN: usize = 100;

    /// The status of an agent that has just begun and knows nothing yet.
    #[must_use]
    pub fn new(compute_id: ComputeId, boot_id: BootId, start_time: DateTime<Utc>) -> Self {
        Self {
            start_time,
            tenant: None,
            timeline: None,
            status: ComputeState::Empty,
            last_active: None,
            error: None,
            compute_id,
            boot_id,
            status_seq: 1,
            term: None,
            generation: None,
            applied_generation: None,
            rejected_generation: None,
            spec_hash: None,
            pending_restart: Vec::new(),
            ignored_fields: Vec::new(),
            postgres: None,
            error_detail: None,
            failures: Vec::new(),
            activity: None,
            downtime: None,
            resources: None,
        }
    }
}

/// The running PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PostgresInfo {
    /// Process id of the postmaster.
    pub pid: u32,
    /// `server_version`.
    pub version: String,
    /// Port it listens on.
    pub port: u16,
}

/// Where applying a spec failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// `settings`, `roles`, `databases`, `start`, …
    pub phase: String,
    /// Name of the role, database or setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// PostgreSQL's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
    /// PostgreSQL's message; never a verifier.
    pub message: String,
}

/// `mode` of `POST /terminate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TerminateMode {
    /// The process stays for 30 s after PostgreSQL is gone.
    #[default]
    Fast,
    /// The process ends at once.
    Immediate,
}

/// Body of `POST /terminate`; it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminateRequest {
    /// The intent that the caller knows. A leadership that has ended, and one that does not know what the agent holds, are
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

/// Answer of `POST /terminate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminateResponse {
    /// Where the write-ahead log ends: on stock PostgreSQL the checkpoint of a clean stop. Null where there is none: no
    /// data, no clean stop, or a server that followed a primary.
    pub lsn: Option<String>,
}

/// `POST /promote`. Unknown fields are tolerated, as in [`ConfigureRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PromoteRequest {
    /// The spec of the compute from then on; its mode is Primary.
    pub spec: Value,
    /// Where the log of the old primary ends, as its `POST /terminate` said.
    pub wal_flush_lsn: Lsn,
    /// Proof of the intent, as in [`ConfigureRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

/// How far a promotion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromoteStatus {
    /// Not yet, or not by this life of the agent.
    #[default]
    NotPromoted,
    /// It takes writes and the spec is in effect.
    Completed,
    /// It did not come to that; `error` says why. It may be asked for again.
    Failed,
}

/// Answer of `POST /promote`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PromoteState {
    /// How far it is.
    pub status: PromoteStatus,
    /// Until the log was replayed as far as asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn_wait_time_ms: Option<u64>,
    /// Until the server took writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_promote_time_ms: Option<u64>,
    /// Until the spec was in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconfigure_time_ms: Option<u64>,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An error of the agent: the reference's `error` text beside our own fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentErrorBody {
    /// The same line as `msg`, where the reference's clients look for it.
    pub error: String,
    /// Code, line, path, highest fence.
    #[serde(flatten)]
    pub body: ErrorBody,
}

/// `POST /control/v1/compute/{id}/report`: an agent says that its status has changed. Unknown fields are tolerated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransitionReport {
    /// Which life of the agent says so.
    pub boot_id: BootId,
    /// How many changes it has had.
    pub status_seq: u64,
    /// What it is now; for people, nothing is decided by it.
    #[serde(default)]
    pub state: Option<ComputeState>,
}

/// Answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportAccepted {
    /// The term of the leader that took it.
    pub term: Term,
    /// Whether it was known already; else the agent is asked for its status soon.
    pub known: bool,
}

/// The file a server writes by rename with `--port-file`, so that port 0 can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFile {
    /// Process id of the writer.
    pub pid: u32,
    /// The controller's instance or the agent's boot.
    pub instance_id: Uuid,
    /// Listener name (`http`, `external_http`, `internal_http`) to port.
    pub ports: std::collections::BTreeMap<String, u16>,
}
