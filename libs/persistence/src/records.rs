//! The rows as values of the contract: what the tables hold, checked once on the way in.
//!
//! Called by: `load`, `lease`, `writer`, and by callers that keep them in memory.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use pgfleet_api::compute::Observed;
use pgfleet_api::policy::{Mode, Policy, SuspendPolicy};
use pgfleet_api::{ClusterId, ComputeId, Generation, InstanceId, SpecHash, Term};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::types::{FromSql, Type, accepts};

use crate::error::DbError;

/// How a term ended, as its own leader writes it down. What a claim without consent ends gets the claim's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The process ended in order and gave the row up.
    Released,
    /// A migration failed and the process gave the row up.
    MigrationFailed,
    /// Something else on the way to serving failed, and the process gave the row up.
    TakeOverFailed,
}

impl Ended {
    /// The word in the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::MigrationFailed => "migration_failed",
            Self::TakeOverFailed => "take_over_failed",
        }
    }
}

/// One term of the history. Words are text here, because a newer version may have written ones we do not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermRecord {
    /// The leadership.
    pub term: Term,
    /// Who led.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
    /// How it began, see [`pgfleet_domain::leadership::Began`].
    pub began: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How it ended, see [`Ended`] and `began`.
    pub ended: Option<String>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// A line for people.
    pub note: Option<String>,
    /// Newest migration its leader carried.
    pub target_schema: String,
}

/// Which builds may read the schema, and which may lead on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compat {
    /// A build of a lower number must not load; it only forwards.
    pub lowest_reader: i32,
    /// A build of a lower number must not claim.
    pub lowest_writer: i32,
}

/// Labels of a compute; computes with the same ones share them after a load.
pub type Labels = Arc<BTreeMap<String, String>>;

/// What was asked for one compute, without the text of its spec.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputeRecord {
    /// Its name.
    pub compute_id: ComputeId,
    /// Where its agent is reached.
    pub agent_url: String,
    /// Labels.
    pub labels: Labels,
    /// Counter of its spec. 0: it never had one. Above 0 without a spec: it was deleted and registered again.
    pub generation: Generation,
    /// Content of the spec; its text is read when it is needed, see [`crate::Database::spec_text`].
    pub spec_hash: Option<SpecHash>,
    /// The spec's `suspend_timeout_seconds`; none where the policy does not ask for it, or it is no number.
    pub suspend_timeout_s: Option<i64>,
    /// How far the leader may go with it by itself.
    pub policy: Policy,
    /// Number of the change that made this row.
    pub change_seq: i64,
    /// When it was registered, or registered again.
    pub created_at: DateTime<Utc>,
    /// When this row last changed.
    pub updated_at: DateTime<Utc>,
}

/// The current spec of a compute.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecRecord {
    /// Its counter.
    pub generation: Generation,
    /// Its content.
    pub spec_hash: SpecHash,
    /// The spec as its owner wrote it.
    pub spec: Value,
}

/// Everything a controller keeps in memory, as of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedState {
    /// The last change that is in it.
    pub change_seq: i64,
    /// The fleet.
    pub cluster_id: ClusterId,
    /// Computes by id, without the deleted ones.
    pub computes: Vec<ComputeRecord>,
    /// What was last observed of them, by id.
    pub observed: Vec<(ComputeId, Observed)>,
}

/// What a line of the journal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JournalKind {
    /// An agent reported something new.
    Transition,
    /// Somebody asked for something.
    Action,
}

impl JournalKind {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Action => "action",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, DbError> {
        match text {
            "transition" => Ok(Self::Transition),
            "action" => Ok(Self::Action),
            other => Err(DbError::content("journal kind", other)),
        }
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    /// When it was committed.
    pub at: DateTime<Utc>,
    /// Its place in the order of all changes.
    pub change_seq: i64,
    /// The compute it is about; none for what concerns the fleet.
    pub compute_id: Option<ComputeId>,
    /// The leadership that wrote it.
    pub term: Term,
    /// What it is about.
    pub kind: JournalKind,
    /// Who: the subject of a token, or the agent.
    pub actor: String,
    /// Why, if it was said.
    pub reason: Option<String>,
    /// What.
    pub detail: Value,
}

pub(crate) fn compute_id_of(text: &str) -> Result<ComputeId, DbError> {
    text.parse().map_err(|error| DbError::content("compute id", error))
}

pub(crate) fn spec_hash_of(text: Option<&str>) -> Result<Option<SpecHash>, DbError> {
    text.map(str::parse).transpose().map_err(|error| DbError::content("spec hash", error))
}

/// Whether anybody asks for the timeout of a compute with this policy.
pub(crate) fn wants_timeout(policy: Policy) -> bool {
    match policy.suspend {
        SuspendPolicy::Never => false,
        SuspendPolicy::WhenIdle => true,
    }
}

/// What is no number is none, as for whoever judges it.
pub(crate) fn timeout_of(text: Option<&str>) -> Option<i64> {
    text?.parse().ok()
}

pub(crate) fn labels_of(json: JsonBytes<'_>) -> Result<Labels, DbError> {
    serde_json::from_slice(json.0).map(Arc::new).map_err(|error| DbError::content("set of labels", error))
}

/// A word that only a later build knows reads as one by which the leader does nothing on its own.
pub(crate) fn policy_of(json: JsonBytes<'_>) -> Policy {
    fn read<T: DeserializeOwned>(value: &Value, name: &str) -> Option<T> {
        value.get(name).and_then(|word| serde_json::from_value(word.clone()).ok())
    }
    // Nearly all have the default.
    if json.0 == b"{}" {
        return Policy::default();
    }
    let value: Value = serde_json::from_slice(json.0).unwrap_or_default();
    let mode = if value.get("mode").is_some() { read(&value, "mode").unwrap_or(Mode::Pause) } else { Mode::Active };
    Policy { suspend: read(&value, "suspend").unwrap_or_default(), mode, pending: read(&value, "pending") }
}

pub(crate) fn observed_of(json: JsonBytes<'_>) -> Result<Observed, DbError> {
    serde_json::from_slice(json.0).map_err(|error| DbError::content("observed state", error))
}

/// A column of type `jsonb` as the bytes of its text: it is read into its type without a tree of values in between.
pub(crate) struct JsonBytes<'a>(pub(crate) &'a [u8]);

impl<'a> FromSql<'a> for JsonBytes<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        match raw.split_first() {
            Some((1, text)) => Ok(Self(text)),
            _ => Err("an unknown version of jsonb".into()),
        }
    }

    accepts!(JSONB);
}

#[cfg(test)]
mod tests {
    use pgfleet_api::policy::SuspendPolicy;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_word_of_a_policy_lets_the_leader_do_less() {
        let active = Policy::default();
        let rows = [
            (json!({}), active),
            (json!({"suspend": "when_idle"}), Policy { suspend: SuspendPolicy::WhenIdle, ..active }),
            (json!({"suspend": "at_noon", "mode": "stop"}), Policy { mode: Mode::Stop, ..active }),
            (json!({"mode": "from_the_future"}), Policy { mode: Mode::Pause, ..active }),
            (json!({"pending": null}), active),
            (json!({"pending": {"action": "explode", "generation": 3}}), active),
        ];
        for (value, policy) in rows {
            assert_eq!(policy_of(JsonBytes(value.to_string().as_bytes())), policy, "{value}");
        }
    }
}
