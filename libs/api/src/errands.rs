//! Bodies of the agent's smaller routes: what its PostgreSQL holds, and small things that are done to it.
//!
//! Names and shapes are the reference's; what is ours may be left out by a client. Requests that we alone define refuse
//! unknown fields.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /dbs_and_roles`. No `Debug`: it may hold verifiers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogObjects {
    /// Every role, by name.
    pub roles: Vec<ListedRole>,
    /// Every database, by name.
    pub databases: Vec<ListedDatabase>,
}

/// A role in the spec's shape.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRole {
    /// Its name.
    pub name: String,
    /// Its verifier, null where it has none; the field is absent for callers who may not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_password: Option<Option<String>>,
    /// Always null: attributes are not listed.
    pub options: Option<Vec<serde_json::Value>>,
}

/// A database in the spec's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedDatabase {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// Always null: options are not listed.
    pub options: Option<Vec<serde_json::Value>>,
    /// It takes no connections.
    pub restrict_conn: bool,
    /// A removal of it was interrupted.
    pub invalid: bool,
}

/// `POST /extensions`: have an extension in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionRequest {
    /// The extension.
    pub extension: String,
    /// Where.
    pub database: String,
    /// Which version; the installation's default one where absent.
    #[serde(default)]
    pub version: Option<String>,
}

/// Answer of `POST /extensions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionResponse {
    /// The extension.
    pub extension: String,
    /// The version that is there now.
    pub version: String,
}

/// `POST /grants`, and the answer to it: let a role have privileges on objects of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// The database the objects lie in.
    pub database: String,
    /// The schema, or the schema of the objects. Not needed for the database itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What the role may do.
    pub privileges: Vec<Privilege>,
    /// Who.
    pub role: String,
    /// On what; the schema itself where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<GrantObject>,
}

/// What a grant is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum GrantObject {
    /// The schema.
    Schema,
    /// The database.
    Database,
    /// Tables, views and the like that are in the schema now.
    AllTables,
    /// Sequences that are in the schema now.
    AllSequences,
    /// Functions that are in the schema now.
    AllFunctions,
    /// One table or view.
    Table {
        /// Its name.
        name: String,
    },
    /// One sequence.
    Sequence {
        /// Its name.
        name: String,
    },
}

impl GrantObject {
    /// What PostgreSQL lets one grant on it.
    #[must_use]
    pub const fn privileges(&self) -> &'static [Privilege] {
        use Privilege as P;
        match self {
            Self::Schema => &[P::Create, P::Usage],
            Self::Database => &[P::Create, P::Connect, P::Temporary],
            Self::AllTables | Self::Table { .. } => {
                &[P::Select, P::Insert, P::Update, P::Delete, P::Truncate, P::References, P::Trigger]
            }
            Self::AllSequences | Self::Sequence { .. } => &[P::Usage, P::Select, P::Update],
            Self::AllFunctions => &[P::Execute],
        }
    }
}

/// A privilege, by PostgreSQL's name in capitals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "PostgreSQL documents its privileges")]
pub enum Privilege {
    Select,
    Insert,
    Update,
    Delete,
    Truncate,
    References,
    Trigger,
    Create,
    Connect,
    Temporary,
    Execute,
    Usage,
}

impl Privilege {
    /// As SQL and `aclexplode` write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
            Self::References => "REFERENCES",
            Self::Trigger => "TRIGGER",
            Self::Create => "CREATE",
            Self::Connect => "CONNECT",
            Self::Temporary => "TEMPORARY",
            Self::Execute => "EXECUTE",
            Self::Usage => "USAGE",
        }
    }
}

/// Answer of `GET /metrics.json`: how long the steps of the start took, 0 for what was not done. Unless said otherwise in
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StartTimings {
    /// From the start of the agent until it had a spec.
    pub wait_for_spec_ms: u64,
    /// Asking safekeepers where they stand.
    pub sync_sk_check_ms: u64,
    /// Making safekeepers agree.
    pub sync_safekeepers_ms: u64,
    /// Connecting to a page server, in microseconds.
    pub pageserver_connect_micros: u64,
    /// Copying the data directory from elsewhere.
    pub basebackup_ms: u64,
    /// Its size in bytes.
    pub basebackup_bytes: u64,
    /// From the start of PostgreSQL until it took connections.
    pub start_postgres_ms: u64,
    /// Applying roles, databases and what else lies in the catalog.
    pub config_ms: u64,
    /// From the spec to running.
    pub total_startup_ms: u64,
    /// Loading extensions.
    pub load_ext_ms: u64,
    /// How many were loaded.
    pub num_ext_downloaded: u64,
    /// Bytes of the largest.
    pub largest_ext_size: u64,
    /// Bytes of all.
    pub total_ext_download_size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_grant_is_read_and_echoed_as_it_came() {
        let text = r#"{"database":"db","schema":"public","privileges":["USAGE","CREATE"],"role":"r"}"#;
        let request: GrantRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.object, None);
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        let ours =
            r#"{"database":"db","schema":"s","privileges":["SELECT"],"role":"r","object":{"type":"table","name":"t"}}"#;
        let request: GrantRequest = serde_json::from_str(ours).unwrap();
        assert_eq!(request.object, Some(GrantObject::Table { name: "t".into() }));
        for bad in [r#"{"type":"table"}"#, r#"{"type":"cast"}"#] {
            assert!(serde_json::from_str::<GrantObject>(bad).is_err(), "{bad}");
        }
    }
}
