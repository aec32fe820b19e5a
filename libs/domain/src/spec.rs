//! Reading a spec: shape, rules, content hash. Used by the controller before a spec is stored and by the agent before
//! it is applied, so that both refuse the same things with the same path.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use pgfleet_api::SpecHash;
use pgfleet_api::spec::{ComputeSpec, Database, PgOption, Role};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// PostgreSQL's limit on a name (`NAMEDATALEN` - 1).
pub const MAX_NAME_BYTES: usize = 63;

/// A spec that passed every rule.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedSpec {
    /// The part that is acted on.
    pub spec: ComputeSpec,
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
    fn new(path: impl Into<String>, msg: impl Into<String>) -> Self {
        Self { path: path.into(), msg: msg.into() }
    }
}

/// Reads a spec and applies every rule that needs no server.
///
/// # Errors
/// The first field that does not fit or that a rule refuses.
pub fn parse(document: &Value) -> Result<ParsedSpec, SpecError> {
    no_nul(document, &mut String::new())?;
    let spec: ComputeSpec = serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        SpecError::new(path, error.into_inner().to_string())
    })?;
    check_unique("cluster.roles", spec.cluster.roles.iter().map(|role| role.name.as_str()))?;
    check_unique("cluster.databases", spec.cluster.databases.iter().map(|database| database.name.as_str()))?;
    for (i, role) in spec.cluster.roles.iter().enumerate() {
        check_role(role, &format!("cluster.roles[{i}]"))?;
    }
    for (i, database) in spec.cluster.databases.iter().enumerate() {
        check_database(database, &format!("cluster.databases[{i}]"))?;
    }
    for (i, setting) in spec.cluster.settings.iter().flatten().enumerate() {
        check_setting(setting, &format!("cluster.settings[{i}]"))?;
    }
    Ok(ParsedSpec { spec, ignored_fields: ignored_fields(document) })
}

/// Content hash of a spec: SHA-256 over its JSON with sorted keys and no white space, before any field is dropped.
#[must_use]
pub fn spec_hash(document: &Value) -> SpecHash {
    let mut canonical = String::new();
    write_canonical(document, &mut canonical);
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(canonical.as_bytes()) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    match hex.parse() {
        Ok(hash) => hash,
        Err(_) => unreachable!("64 hex digits are a spec hash"),
    }
}

/// Sorts explicitly: whether `serde_json::Map` keeps an order of its own is decided by a feature any crate may switch on.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (key, inner)) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", Value::String(key.clone()));
                write_canonical(inner, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, inner) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(inner, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// PostgreSQL's text holds no NUL, and neither does its jsonb; refuse it at the door, wherever it stands.
fn no_nul(value: &Value, path: &mut String) -> Result<(), SpecError> {
    let at = |path: &str| if path.is_empty() { ".".to_owned() } else { path.to_owned() };
    let length = path.len();
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
                no_nul(inner, path)?;
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                let _ = write!(path, "[{i}]");
                no_nul(inner, path)?;
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

fn check_unique<'a>(path: &str, names: impl Iterator<Item = &'a str>) -> Result<(), SpecError> {
    let mut seen = BTreeSet::new();
    for (i, name) in names.enumerate() {
        if !seen.insert(name) {
            return Err(SpecError::new(format!("{path}[{i}].name"), format!("{name:?} is listed twice")));
        }
    }
    Ok(())
}

fn check_name(name: &str, path: &str) -> Result<(), SpecError> {
    match name.len() {
        0 => Err(SpecError::new(path, "a name must not be empty")),
        n if n > MAX_NAME_BYTES => {
            Err(SpecError::new(path, format!("a name has at most {MAX_NAME_BYTES} bytes, this one {n}")))
        }
        _ => Ok(()),
    }
}

fn check_role(role: &Role, path: &str) -> Result<(), SpecError> {
    check_name(&role.name, &format!("{path}.name"))?;
    if let Some(verifier) = &role.encrypted_password
        && !is_verifier(verifier)
    {
        let msg = "not a password verifier: give a SCRAM-SHA-256 verifier or an MD5 hash, never the password itself";
        return Err(SpecError::new(format!("{path}.encrypted_password"), msg));
    }
    check_options(role.options.as_deref(), &format!("{path}.options"))
}

fn check_database(database: &Database, path: &str) -> Result<(), SpecError> {
    check_name(&database.name, &format!("{path}.name"))?;
    check_name(&database.owner, &format!("{path}.owner"))?;
    check_options(database.options.as_deref(), &format!("{path}.options"))
}

/// `SCRAM-SHA-256$iterations:salt$stored:server`, or 32 hex digits with or without `md5` before them.
fn is_verifier(text: &str) -> bool {
    let base64 = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
        let Some((iterations, rest)) = rest.split_once(':') else { return false };
        let Some((salt, keys)) = rest.split_once('$') else { return false };
        let Some((stored, server)) = keys.split_once(':') else { return false };
        return iterations.parse::<u32>().is_ok_and(|n| n > 0) && base64(salt) && base64(stored) && base64(server);
    }
    let md5 = text.strip_prefix("md5").unwrap_or(text);
    md5.len() == 32 && md5.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Options reach SQL as they stand, so their words are restricted to what such options are made of.
fn check_options(options: Option<&[PgOption]>, path: &str) -> Result<(), SpecError> {
    for (i, option) in options.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{i}]");
        let words = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'_'));
        if option.name.trim().is_empty() || !words(&option.name) {
            return Err(SpecError::new(format!("{path}.name"), "an option is made of letters, digits, '_' and spaces"));
        }
        let raw = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+-:".contains(&b));
        if option.vartype != "string" && !option.value.as_deref().is_none_or(raw) {
            let msg = "a value that is not quoted is made of letters, digits and _ . + - : (use vartype \"string\")";
            return Err(SpecError::new(format!("{path}.value"), msg));
        }
    }
    Ok(())
}

fn check_setting(setting: &PgOption, path: &str) -> Result<(), SpecError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$');
    let starts_well = setting.name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts_well || !setting.name.bytes().all(word) {
        let msg = "a setting's name begins with a letter and has letters, digits, '_' and '.'";
        return Err(SpecError::new(format!("{path}.name"), msg));
    }
    if setting.value.is_none() {
        return Err(SpecError::new(format!("{path}.value"), "a setting needs a value"));
    }
    if setting.value.as_deref().is_some_and(|value| value.contains(['\n', '\r'])) {
        return Err(SpecError::new(format!("{path}.value"), "a setting's value is one line"));
    }
    Ok(())
}

/// Fields that are acted on, by place; everything else is listed back.
const SPEC_FIELDS: [&str; 4] = ["format_version", "suspend_timeout_seconds", "cluster", "skip_pg_catalog_updates"];
const CLUSTER_FIELDS: [&str; 4] = ["roles", "databases", "postgresql_conf", "settings"];
const ROLE_FIELDS: [&str; 3] = ["name", "encrypted_password", "options"];
const DATABASE_FIELDS: [&str; 3] = ["name", "owner", "options"];
const OPTION_FIELDS: [&str; 3] = ["name", "value", "vartype"];

fn ignored_fields(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    note_unknown(document, "", &SPEC_FIELDS, &mut found);
    let cluster = &document["cluster"];
    note_unknown(cluster, "cluster.", &CLUSTER_FIELDS, &mut found);
    for (list, fields) in [("roles", &ROLE_FIELDS), ("databases", &DATABASE_FIELDS), ("settings", &OPTION_FIELDS)] {
        for (i, item) in cluster[list].as_array().into_iter().flatten().enumerate() {
            note_unknown(item, &format!("cluster.{list}[{i}]."), fields, &mut found);
            for (j, option) in item["options"].as_array().into_iter().flatten().enumerate() {
                note_unknown(option, &format!("cluster.{list}[{i}].options[{j}]."), &OPTION_FIELDS, &mut found);
            }
        }
    }
    found.sort();
    found
}

/// A field that is null asks for nothing, so it is not listed.
fn note_unknown(value: &Value, prefix: &str, known: &[&str], found: &mut Vec<String>) {
    let unknown =
        value.as_object().into_iter().flatten().filter(|(key, v)| !known.contains(&key.as_str()) && !v.is_null());
    found.extend(unknown.map(|(key, _)| format!("{prefix}{key}")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn minimal() -> Value {
        json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": [], "databases": []}})
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut spec = json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {
            "roles": [{"name": "a", "encrypted_password": null, "options": [{"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}]}],
            "databases": [{"name": "d", "owner": "a"}],
            "settings": [{"name": "work_mem", "value": "8MB", "vartype": "string"}]}});
        *spec.pointer_mut(pointer).unwrap() = value;
        spec
    }

    #[test]
    fn a_minimal_spec_is_enough() {
        let parsed = parse(&minimal()).unwrap();
        assert!(parsed.ignored_fields.is_empty());
        assert!(!parsed.spec.skip_pg_catalog_updates);
    }

    #[test]
    fn every_refusal_names_its_field() {
        let rows = [
            ("/cluster/roles/0/name", json!(""), "cluster.roles[0].name"),
            ("/cluster/roles/0/name", json!("x".repeat(64)), "cluster.roles[0].name"),
            ("/cluster/roles/0/name", json!("a\0b"), "cluster.roles[0].name"),
            ("/cluster/roles/0/name", json!(7), "cluster.roles[0].name"),
            ("/cluster/roles/0/encrypted_password", json!("secret"), "cluster.roles[0].encrypted_password"),
            ("/cluster/roles/0/options/0/name", json!("LIMIT; DROP"), "cluster.roles[0].options[0].name"),
            ("/cluster/roles/0/options/0/value", json!("5 SUPERUSER"), "cluster.roles[0].options[0].value"),
            ("/cluster/roles", json!([{"name": "a"}, {"name": "a"}]), "cluster.roles[1].name"),
            (
                "/cluster/databases",
                json!([{"name": "d", "owner": "a"}, {"name": "d", "owner": "a"}]),
                "cluster.databases[1].name",
            ),
            ("/cluster/databases/0/owner", json!(""), "cluster.databases[0].owner"),
            ("/cluster/settings/0/name", json!("1x"), "cluster.settings[0].name"),
            ("/cluster/settings/0/value", json!("a\nport=1"), "cluster.settings[0].value"),
            ("/cluster/settings/0/value", Value::Null, "cluster.settings[0].value"),
            ("/suspend_timeout_seconds", json!("soon"), "suspend_timeout_seconds"),
        ];
        for (pointer, value, path) in rows {
            let error = parse(&with(pointer, value)).unwrap_err();
            assert_eq!(error.path, path, "{}", error.msg);
            assert!(!error.msg.contains("secret"));
        }
    }

    #[test]
    fn missing_fields_are_refused() {
        let mut spec = minimal();
        spec["cluster"].as_object_mut().unwrap().remove("roles");
        let error = parse(&spec).unwrap_err();
        assert_eq!((error.path.as_str(), error.msg.contains("roles")), ("cluster", true));
    }

    #[test]
    fn verifiers() {
        for good in [
            "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy",
            "0123456789abcdef0123456789abcdef",
            "md50123456789abcdef0123456789abcdef",
        ] {
            assert!(is_verifier(good), "{good}");
        }
        for bad in ["", "md5", "password", "SCRAM-SHA-256$x:a$b:c", "SCRAM-SHA-256$4096:a$b", "SCRAM-SHA-256$1:a'$b:c"]
        {
            assert!(!is_verifier(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_not_acted_on_is_listed() {
        let mut spec = with("/cluster/settings/0/name", json!("work_mem"));
        spec["features"] = json!(["from_the_future"]);
        spec["operation_uuid"] = Value::Null;
        spec["cluster"]["cluster_id"] = json!("c");
        spec["cluster"]["roles"][0]["colour"] = json!("red");
        assert_eq!(parse(&spec).unwrap().ignored_fields, ["cluster.cluster_id", "cluster.roles[0].colour", "features"]);
    }

    #[test]
    fn the_hash_does_not_see_order_or_white_space_but_all_content() {
        let a: Value = serde_json::from_str(r#"{"b":[1,{"y":2,"x":1}],"a":"é\n"}"#).unwrap();
        let b: Value = serde_json::from_str(" {\"a\" : \"\\u00e9\\n\", \"b\": [1, {\"x\":1,\"y\":2}] }").unwrap();
        assert_eq!(spec_hash(&a), spec_hash(&b));
        for other in [
            json!({"b": [1, {"y": 2, "x": 2}], "a": "é\n"}),
            json!({"b": [{"y": 2, "x": 1}, 1], "a": "é\n"}),
            json!({}),
        ] {
            assert_ne!(spec_hash(&a), spec_hash(&other));
        }
        // sha256 of "{}"
        assert_eq!(spec_hash(&json!({})).as_str(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
