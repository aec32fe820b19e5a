//! Reading a spec: shape, rules, content hash. Used by the controller before a spec is stored and by the agent before
//! it is applied, so that both refuse the same things with the same path.
//!
//! ```text
//!   JSON ──► limits (NUL, depth) ──► shape ──► rules · deltas · storage ──► ParsedSpec { spec, storage, ignored_fields }
//! ```
//!
//! Invariants: nothing here panics on any JSON; every refusal names a field; no message shows what could be a secret, and
//! none is long. What is not known is tolerated and listed, never refused.

mod deltas;
mod hash;
mod ignored;
mod limits;
mod rules;
mod settings;
mod storage;
#[cfg(test)]
mod tests;

pub use hash::{sha256_hex, spec_hash};
pub use limits::MAX_DEPTH;
pub use rules::MAX_NAME_BYTES;
pub use settings::{Setting, SettingError, collect, read_conf};
pub use storage::{StorageKind, setting};

use pgfleet_api::spec::ComputeSpec;
use serde::Deserialize as _;
use serde_json::Value;

/// A spec that passed every rule.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedSpec {
    /// The part that is acted on.
    pub spec: ComputeSpec,
    /// The storage it means.
    pub storage: StorageKind,
    /// Paths of fields that are not acted on, sorted.
    pub ignored_fields: Vec<String>,
}

/// Why a spec is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {msg}")]
pub struct SpecError {
    /// Path of the field, like `cluster.roles[2].name`; `.` for the whole document.
    pub path: String,
    /// What is wrong with it, in one line. Never its value where that could be a secret.
    pub msg: String,
}

impl SpecError {
    /// Keys and with them paths may be as long as the document, and this is for people.
    fn new(path: impl Into<String>, msg: impl Into<String>) -> Self {
        Self { path: shortened(path.into()), msg: shortened(msg.into()) }
    }
}

/// Reads a spec and applies every rule that needs no server.
///
/// # Errors
/// The first field that does not fit or that a rule refuses.
pub fn parse(document: &Value) -> Result<ParsedSpec, SpecError> {
    limits::check(document)?;
    // To keep the path of every field costs more than to read it; only a refusal needs one.
    let spec = ComputeSpec::deserialize(document).or_else(|_| with_path(document))?;
    limits::check_objects(&spec)?;
    rules::check_numbers(&spec)?;
    rules::check_cluster(&spec.cluster)?;
    deltas::check_deltas(&spec)?;
    let storage = StorageKind::of(&spec);
    storage::check_storage(&spec, storage)?;
    let ignored_fields = ignored::ignored_fields(document, &spec, storage);
    Ok(ParsedSpec { spec, storage, ignored_fields })
}

/// Reads a document that a first reading refused, for the path of what is wrong with it.
fn with_path(document: &Value) -> Result<ComputeSpec, SpecError> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        SpecError::new(path, without_value(&error.into_inner().to_string()))
    })
}

/// The longest path and the longest line for a person, in characters.
const LONGEST: usize = 300;

fn shortened(text: String) -> String {
    if text.len() <= LONGEST { text } else { text.chars().take(LONGEST).collect() }
}

/// What serde says, without the value that it quotes: that may be a secret in the wrong place.
fn without_value(said: &str) -> String {
    let (Some(quoted), Some(rest)) = (said.find(['"', '`']), said.rfind(", expected ")) else {
        return said.to_owned();
    };
    format!("{}{}", said.get(..quoted).unwrap_or_default().trim_end(), said.get(rest..).unwrap_or_default())
}
