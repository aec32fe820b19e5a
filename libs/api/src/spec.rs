//! The spec JSON of a compute: what its owner asks for. The shape follows the reference agent's, so that specs written
//! for it are accepted; what this version does not act on is listed back as `ignored_fields`.

use std::fmt;

use serde::Deserialize;

/// The part of a spec that this version acts on. Unknown fields are tolerated here and listed by `domain::spec::parse`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ComputeSpec {
    /// 1.0 today; read, never judged.
    pub format_version: f64,
    /// Seconds of idleness after which the owner wants the compute suspended; the control plane's business.
    pub suspend_timeout_seconds: i64,
    /// Roles, databases and settings.
    pub cluster: Cluster,
    /// Leave roles and databases alone and apply settings only.
    #[serde(default)]
    pub skip_pg_catalog_updates: bool,
}

/// The content of the PostgreSQL cluster.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Cluster {
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
