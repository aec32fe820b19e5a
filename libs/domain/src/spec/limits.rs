//! What no spec may hold, whatever it means: NUL, and more depth than files and databases carry.

use std::fmt::Write as _;

use pgfleet_api::spec::ComputeSpec;
use serde_json::Value;

use super::SpecError;

/// Most levels of lists and objects in a spec. JSON readers stop at 128, and a spec is kept inside other documents: one that
/// came in at the door must be read again from the ledger.
pub const MAX_DEPTH: usize = 64;

pub(super) fn check(document: &Value) -> Result<(), SpecError> {
    look(document, 1, &mut String::new())
}

/// PostgreSQL's text holds no NUL, and neither does its jsonb; refuse it at the door, wherever it stands.
fn look(value: &Value, depth: usize, path: &mut String) -> Result<(), SpecError> {
    let at = |path: &str| if path.is_empty() { ".".to_owned() } else { path.to_owned() };
    let length = path.len();
    if depth > MAX_DEPTH && (value.is_array() || value.is_object()) {
        return Err(SpecError::new(at(path), format!("a spec has at most {MAX_DEPTH} levels")));
    }
    match value {
        Value::String(text) if text.contains('\0') => {
            return Err(SpecError::new(at(path), "text must not contain NUL"));
        }
        Value::Object(map) => {
            for (key, inner) in map {
                if key.contains('\0') {
                    return Err(SpecError::new(at(path), "a key must not contain NUL"));
                }
                if length > 0 {
                    path.push('.');
                }
                path.push_str(key);
                look(inner, depth + 1, path)?;
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                let _ = write!(path, "[{i}]");
                look(inner, depth + 1, path)?;
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

/// Fields that are read as they stand are objects all the same.
pub(super) fn check_objects(spec: &ComputeSpec) -> Result<(), SpecError> {
    let fields = [
        ("remote_extensions", &spec.remote_extensions),
        ("pgbouncer_settings", &spec.pgbouncer_settings),
        ("local_proxy_config", &spec.local_proxy_config),
        ("databricks_settings", &spec.databricks_settings),
    ];
    for (path, value) in fields {
        if value.as_ref().is_some_and(|value| !value.is_object()) {
            return Err(SpecError::new(path, "it is an object"));
        }
    }
    Ok(())
}
