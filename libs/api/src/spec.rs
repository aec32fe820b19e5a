//! The spec JSON of a compute: what its owner asks for. The shape follows the reference agent's, so that specs written
//! for it are accepted. Unknown fields are tolerated here; `domain::spec::parse` lists what is not acted on as
//! `ignored_fields`.
//!
//! A spec that names no page server means stock PostgreSQL. Fields that only storage of that kind can serve are read all
//! the same, so that a spec is judged as one whole.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Text that must not be shown: a token or a verifier. Its `Debug` shows that there is one.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

/// A spec.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ComputeSpec {
    /// 1.0 today; read, never judged.
    pub format_version: f64,
    /// When the control plane made it; of no effect.
    #[serde(default)]
    pub timestamp: Option<String>,
    /// Names the operation that the spec belongs to; logged.
    #[serde(default)]
    pub operation_uuid: Option<String>,
    /// Switches; a word that is not known is tolerated and listed.
    #[serde(default)]
    pub features: Vec<String>,
    /// Swap of the machine, in bytes.
    #[serde(default)]
    pub swap_size_bytes: Option<u64>,
    /// Disk quota of the machine, in bytes.
    #[serde(default)]
    pub disk_quota_bytes: Option<u64>,
    /// Keep hands off the local file cache.
    #[serde(default)]
    pub disable_lfc_resizing: Option<bool>,
    /// Seconds of idleness after which the owner wants the compute suspended; 0 and -1: never. The leader judges it.
    pub suspend_timeout_seconds: i64,
    /// Roles, databases and settings.
    pub cluster: Cluster,
    /// Renames and deletions, which the lists of `cluster` cannot say.
    #[serde(default)]
    pub delta_operations: Option<Vec<DeltaOperation>>,
    /// Leave roles and databases alone and apply settings only.
    #[serde(default)]
    pub skip_pg_catalog_updates: bool,
    /// Tenant at the page server: 32 hex digits.
    #[serde(default)]
    pub tenant_id: Option<String>,
    /// Timeline at the page server: 32 hex digits.
    #[serde(default)]
    pub timeline_id: Option<String>,
    /// Where the page servers are.
    #[serde(default)]
    pub pageserver_connection_info: Option<PageserverConnectionInfo>,
    /// The older way to say it: URLs with commas between them, one per shard.
    #[serde(default)]
    pub pageserver_connstring: Option<String>,
    /// Stripe size, with `pageserver_connstring`.
    #[serde(default)]
    pub shard_stripe_size: Option<u32>,
    /// Generation of the set of safekeepers.
    #[serde(default)]
    pub safekeepers_generation: Option<u32>,
    /// `host:port` of each safekeeper.
    #[serde(default)]
    pub safekeeper_connstrings: Vec<String>,
    /// Project, exported as a setting where there is such storage.
    #[serde(default)]
    pub project_id: Option<String>,
    /// Branch, likewise.
    #[serde(default)]
    pub branch_id: Option<String>,
    /// Endpoint, likewise.
    #[serde(default)]
    pub endpoint_id: Option<String>,
    /// What the compute is.
    #[serde(default)]
    pub mode: ComputeMode,
    /// Shown to storage as a password.
    #[serde(default)]
    pub storage_auth_token: Option<Secret>,
    /// Extensions to load from an archive.
    #[serde(default)]
    pub remote_extensions: Option<Value>,
    /// Settings of a pooler beside PostgreSQL.
    #[serde(default)]
    pub pgbouncer_settings: Option<Value>,
    /// Settings of a proxy beside PostgreSQL.
    #[serde(default)]
    pub local_proxy_config: Option<Value>,
    /// How many databases are worked on side by side while the compute runs.
    #[serde(default = "one")]
    pub reconfigure_concurrency: usize,
    /// Drop all subscriptions, once per timeline (once per data directory on stock PostgreSQL).
    #[serde(default)]
    pub drop_subscriptions_before_start: bool,
    /// How much is written to the audit log.
    #[serde(default)]
    pub audit_log_level: AuditLogLevel,
    /// `host:port` of a log collector.
    #[serde(default)]
    pub logs_export_host: Option<String>,
    /// Where the state of the local file cache is kept.
    #[serde(default)]
    pub endpoint_storage_addr: Option<String>,
    /// Token for it.
    #[serde(default)]
    pub endpoint_storage_token: Option<Secret>,
    /// Warm the local file cache at start.
    #[serde(default)]
    pub autoprewarm: bool,
    /// Seconds between savings of the cache's state.
    #[serde(default)]
    pub offload_lfc_interval_seconds: Option<NonZeroU64>,
    /// A vendor's own mode.
    #[serde(default)]
    pub databricks_settings: Option<Value>,
    /// Ours: whether the agent restarts PostgreSQL for settings that need it.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Ours: what becomes of a spec with which PostgreSQL does not start.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Ours: where a replica on stock PostgreSQL copies and streams from, like
    /// `postgresql://replicator@10.0.0.1:5432/postgres`. A password lies in `primary_password`.
    #[serde(default)]
    pub primary_connstring: Option<String>,
    /// Ours: the password for it.
    #[serde(default)]
    pub primary_password: Option<Secret>,
    /// Ours: the physical slot at the primary that a replica uses; made there if it is absent.
    #[serde(default)]
    pub primary_slot_name: Option<String>,
}

const fn one() -> usize {
    1
}

/// What a compute is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub enum ComputeMode {
    /// It takes writes.
    #[default]
    Primary,
    /// It follows a primary.
    Replica,
    /// It shows the data as of an LSN (`0/16ABCD8`).
    Static(String),
}

/// Amount of audit logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum AuditLogLevel {
    /// None.
    #[default]
    Disabled,
    /// In PostgreSQL's own log.
    Log,
    /// Basic.
    Base,
    /// As a health-care rule wants it.
    Hipaa,
    /// More.
    Extended,
    /// Everything.
    Full,
}

/// When the agent may restart PostgreSQL because of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Not by itself: the settings are reported as pending.
    #[default]
    Never,
    /// As soon as no client is connected.
    WhenIdle,
    /// At once.
    Now,
}

/// What becomes of a spec with which PostgreSQL does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The last good spec is applied again, and the generation counts as rejected.
    #[default]
    Rollback,
    /// It stays, for somebody to look at.
    Keep,
}

/// The content of the PostgreSQL cluster.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Cluster {
    /// Informational.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Informational.
    #[serde(default)]
    pub name: Option<String>,
    /// Informational.
    #[serde(default)]
    pub state: Option<String>,
    /// Roles to create or alter. A role that is absent is left alone.
    pub roles: Vec<Role>,
    /// Databases to create or alter. A database that is absent is left alone.
    pub databases: Vec<Database>,
    /// Raw configuration text that goes before `settings`.
    #[serde(default)]
    pub postgresql_conf: Option<String>,
    /// Settings; the last of a name wins.
    #[serde(default)]
    pub settings: Option<Vec<PgOption>>,
}

/// One rename or deletion. They are done in the order of the spec.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DeltaOperation {
    /// `delete_db`, `rename_db`, `delete_role`, `rename_role`; another word is tolerated and listed.
    pub action: String,
    /// What it is done to.
    pub name: String,
    /// The name after it.
    #[serde(default)]
    pub new_name: Option<String>,
}

/// Where the page servers of a tenant are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PageserverConnectionInfo {
    /// 0: not sharded.
    pub shard_count: u8,
    /// Pages per stripe.
    #[serde(default)]
    pub stripe_size: Option<u32>,
    /// Shard number and count, two hex digits each, to its page servers; `0000` where it is not sharded.
    pub shards: BTreeMap<String, Shard>,
    /// How to talk to them.
    #[serde(default)]
    pub prefer_protocol: PageserverProtocol,
}

/// Page servers of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shard {
    /// In the order of preference.
    pub pageservers: Vec<Pageserver>,
}

/// One page server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pageserver {
    /// Its number.
    #[serde(default)]
    pub id: Option<u64>,
    /// `postgresql://…`
    #[serde(default)]
    pub libpq_url: Option<String>,
    /// `grpc://…`
    #[serde(default)]
    pub grpc_url: Option<String>,
}

/// How to talk to a page server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageserverProtocol {
    /// PostgreSQL's own protocol.
    #[default]
    Libpq,
    /// gRPC, which this agent does not speak.
    Grpc,
}

/// A login role.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Role {
    /// Name as in `pg_roles`: 1 to 63 bytes.
    pub name: String,
    /// A SCRAM verifier, or a bare or `md5`-prefixed MD5 hash. Null: no password.
    #[serde(default)]
    pub encrypted_password: Option<String>,
    /// Options of `CREATE ROLE`.
    #[serde(default)]
    pub options: Option<Vec<PgOption>>,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("name", &self.name)
            .field("encrypted_password", &self.encrypted_password.as_ref().map(|_| "redacted"))
            .field("options", &self.options)
            .finish()
    }
}

/// A database and who owns it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Database {
    /// Name as in `pg_database`: 1 to 63 bytes.
    pub name: String,
    /// A role of this spec or one that exists.
    pub owner: String,
    /// Options of `CREATE DATABASE`; they count only at creation.
    #[serde(default)]
    pub options: Option<Vec<PgOption>>,
}

/// A named option. `vartype` `string` is quoted, every other vartype is written as it stands.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PgOption {
    /// Name of the setting or option.
    pub name: String,
    /// Absent: the bare name.
    #[serde(default)]
    pub value: Option<String>,
    /// `string`, `integer`, `bool`, `enum` or any other word.
    pub vartype: String,
}
