//! What an agent says about the use of its PostgreSQL. Read anew for every answer and never part of the published document:
//! `status_seq` does not count it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a compute counts as awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivityReason {
    /// The counters of the databases moved; with the feature `activity_monitor_experimental` only.
    DatabaseStatistics,
    /// A client runs a statement.
    ClientActive,
    /// A client holds a transaction open.
    IdleInTransaction,
    /// A client that is idle now did something since the look before.
    ClientIdleRecently,
    /// A base backup is being taken.
    BaseBackup,
    /// A logical replication client is connected. Physical standbys do not count.
    LogicalReplication,
    /// A subscription of this compute is being fed.
    Subscription,
    /// Autovacuum works on a table.
    Autovacuum,
    /// The compute is not running (yet), or not again.
    Starting,
    /// PostgreSQL does not answer the monitor.
    NoAnswer,
    /// A reason that this reader does not know.
    #[serde(other)]
    Unknown,
}

/// Whether PostgreSQL is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// Whether something counts as activity right now.
    pub awake: bool,
    /// What; null while idle. The first that holds, in the order of [`ActivityReason`].
    pub reason: Option<ActivityReason>,
    /// Since when it is awake, or idle.
    pub since: DateTime<Utc>,
    /// Client sessions, without the agent's own.
    pub sessions: u32,
    /// Time since the last activity, or since the compute came to run if that was later, by one clock of the agent's
    /// machine. 0 while awake, null while it is not known.
    pub idle_for_ms: Option<u64>,
}

/// How long PostgreSQL did not answer the monitor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Downtime {
    /// This time; 0 while it answers.
    pub current_ms: u64,
    /// In this life of the agent.
    pub total_ms: u64,
}
