//! What controllers say to each other, to operators and to load balancers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::compute::Observed;
use crate::ids::{ClusterId, ComputeId, InstanceId, Term};

/// What a controller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Waits and watches.
    Candidate,
    /// Has claimed and does not serve yet: migrates, loads.
    TakingOver,
    /// Executes everything.
    Leader,
    /// Leads and cannot prove its lease: executes nothing until it can.
    Suspended,
    /// Was asked to give up and is draining.
    SteppingDown,
    /// Gave up; waits for its successor.
    SteppedDown,
}

impl Role {
    /// Every role, for tables and metrics.
    pub const ALL: [Self; 6] =
        [Self::Candidate, Self::TakingOver, Self::Leader, Self::Suspended, Self::SteppingDown, Self::SteppedDown];

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::TakingOver => "taking_over",
            Self::Leader => "leader",
            Self::Suspended => "suspended",
            Self::SteppingDown => "stepping_down",
            Self::SteppedDown => "stepped_down",
        }
    }
}

/// Who leads, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaderRef {
    /// The process.
    pub instance_id: InstanceId,
    /// Its leadership.
    pub term: Term,
    /// Base URL of its API, like `http://10.0.0.5:7000`.
    pub address: String,
}

/// `GET /status` of a controller: open, answered in every role, without the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControllerStatus {
    /// What it is.
    pub role: Role,
    /// The process.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
    /// Program version.
    pub version: String,
    /// Its own term while it leads or after it stepped down.
    pub term: Option<Term>,
    /// Who leads, as far as it knows.
    pub leader: Option<LeaderRef>,
    /// After a step-down: the only one that may claim without waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Candidate>,
    /// After a step-down: milliseconds for which everybody but the successor leaves that term alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
}

/// `GET /control/v1/leader`: the leader row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaderView {
    /// The fleet.
    pub cluster_id: ClusterId,
    /// The term.
    pub term: Term,
    /// The process that claimed it.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
    /// How often it renewed its lease.
    pub renewals: i64,
    /// Length of its lease.
    pub lease_ms: i64,
    /// Database time of the claim; for people.
    pub started_at: DateTime<Utc>,
    /// Database time of the last renewal; for people.
    pub renewed_at: DateTime<Utc>,
    /// Set when it gave the row up.
    pub released_at: Option<DateTime<Utc>>,
}

/// One member in `GET /control/v1/controllers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// The process.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
    /// Program version.
    pub version: String,
    /// What it is.
    pub role: Role,
    /// Milliseconds since the leader last heard of it.
    pub last_seen_ms: u64,
    /// Changes that its memory is behind the leader's; `None` for the leader itself and for a member that follows nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// `GET /control/v1/controllers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberList {
    /// The leader first, then by address.
    pub controllers: Vec<Member>,
}

/// The leadership that a `step_down` is meant for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepDownTarget {
    /// The process that should step down.
    pub instance_id: InstanceId,
    /// The term it should lead.
    pub term: Term,
}

/// The member that wants to lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The process.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
}

/// Body of `PUT /control/v1/step_down`. Without a body whoever answers steps down, if it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepDownRequest {
    /// Whom it is meant for.
    pub leader: StepDownTarget,
    /// Who takes over.
    pub candidate: Candidate,
    /// Newest migration that the candidate carries and the schema lacks; `None` if it has nothing to migrate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_schema: Option<String>,
    /// Step down even for a candidate whose migration has failed a short while ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Answer of `PUT /control/v1/step_down`: the observed state at the end of the old leader's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepDownResponse {
    /// Version of this body; 1.
    pub format: u32,
    /// The term that ended.
    pub term: Term,
    /// Whether everything was drained and flushed within the grace.
    pub complete: bool,
    /// What was observed of every compute; empty with `?snapshot=none`.
    #[serde(default)]
    pub computes: BTreeMap<ComputeId, Observed>,
}

/// One line of `GET /control/v1/follow` (newline-delimited JSON): where the answering member stands. The first line comes
/// at once, another one at every change of it, and one per renewal as a sign of life. The end of the stream proves nothing,
/// it only wakes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FollowLine {
    /// The answering process.
    pub instance_id: InstanceId,
    /// Its role.
    pub role: Role,
    /// Its own term while it leads or after it stepped down.
    pub term: Option<Term>,
    /// Who leads, as far as it knows.
    pub leader: Option<LeaderRef>,
    /// After a step-down: the only one that may claim without waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Candidate>,
    /// The last committed change it knows of; 0 if it does not lead.
    pub change_seq: i64,
}

/// Body of `POST /control/v1/take_over`; an empty body means the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeOverRequest {
    /// Also when this member's migration failed a short while ago.
    #[serde(default)]
    pub force: bool,
}

/// Answer of `POST /control/v1/take_over`, once the member leads and serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TakeOverResponse {
    /// This member and its term.
    pub leader: LeaderRef,
    /// From asking the old leader to serving, in milliseconds; 0 if it led already.
    pub gap_ms: f64,
    /// Parts of it in milliseconds, by name, in `storage_controller_handover_phase_seconds`' words.
    pub phases_ms: BTreeMap<String, f64>,
}

/// One term of `GET /control/v1/leader/history`. Words are text, because a newer version may write ones we do not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TermView {
    /// The leadership.
    pub term: Term,
    /// Who led.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
    /// How it began: first, step_down, released, crash, lease, revert.
    pub began: String,
    /// When, by the database's clock.
    pub started_at: DateTime<Utc>,
    /// How it ended; `None` while it lasts.
    pub ended: Option<String>,
    /// When, by the database's clock.
    pub ended_at: Option<DateTime<Utc>>,
    /// A line for people.
    pub note: Option<String>,
    /// Newest migration that its leader carried.
    pub target_schema: String,
}

/// Answer of `GET /control/v1/leader/history`, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TermList {
    /// The terms.
    pub terms: Vec<TermView>,
}
