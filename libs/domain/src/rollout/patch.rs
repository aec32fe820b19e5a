//! A patch put onto a spec. Called by the controller for every compute of a roll-out, before anything is written.
//!
//! Invariants: what a patch does not name stays as it is, byte for byte of meaning; putting it on twice is putting it on
//! once; the result passes every rule of a spec.

use std::collections::BTreeSet;

use pgfleet_api::rollout::SpecPatch;
use serde_json::{Map, Value, json};

use crate::spec::{MAX_NAME_BYTES, SpecError, parse};

/// Most settings, roles and databases of one patch, each.
const MOST: usize = 1000;

/// Refuses a patch that no spec could take. Paths begin with `patch.`.
///
/// # Errors
/// The first field that does not fit.
pub fn check(patch: &SpecPatch) -> Result<(), SpecError> {
    let SpecPatch { settings, roles, remove_roles, databases, remove_databases } = patch;
    let sizes = [settings.len(), roles.len(), remove_roles.len(), databases.len(), remove_databases.len()];
    if sizes.iter().all(|size| *size == 0) {
        return refuse("patch", "it changes nothing: give settings, roles or databases");
    }
    if sizes.iter().any(|size| *size > MOST) {
        return refuse("patch", "it has at most 1000 entries of each kind");
    }
    for (name, value) in settings {
        let path = format!("patch.settings.{}", name.escape_debug());
        check_name(name, &path)?;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) if text.contains(['\0', '\n', '\r']) => return refuse(&path, "a value is one line"),
            Value::String(_) => {}
            Value::Array(_) | Value::Object(_) => return refuse(&path, "a value is text, a number, a boolean or null"),
        }
    }
    check_entries("roles", roles, remove_roles)?;
    check_entries("databases", databases, remove_databases)
}

fn check_entries(kind: &str, entries: &[Value], removed: &[String]) -> Result<(), SpecError> {
    let mut seen = BTreeSet::new();
    for (i, entry) in entries.iter().enumerate() {
        let path = format!("patch.{kind}[{i}]");
        let Some(name) = entry.get("name").and_then(Value::as_str) else {
            return refuse(&path, "an entry is an object with a name");
        };
        check_name(name, &format!("{path}.name"))?;
        if !seen.insert(name) {
            return refuse(&format!("{path}.name"), "this name was given before");
        }
    }
    for (i, name) in removed.iter().enumerate() {
        let path = format!("patch.remove_{kind}[{i}]");
        check_name(name, &path)?;
        if !seen.insert(name.as_str()) {
            return refuse(&path, "this name is given twice, or is to be there as well");
        }
    }
    Ok(())
}

fn check_name(name: &str, path: &str) -> Result<(), SpecError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
        return refuse(path, "a name has 1 to 63 bytes and no NUL");
    }
    Ok(())
}

fn refuse(path: &str, msg: &str) -> Result<(), SpecError> {
    Err(SpecError { path: path.to_owned(), msg: msg.to_owned() })
}

/// The spec with the patch on it. It equals `spec` if it was so already.
///
/// # Errors
/// A rule refuses the result; the path is the result's.
pub fn apply(patch: &SpecPatch, spec: &Value) -> Result<Value, SpecError> {
    let mut patched = spec.clone();
    let Some(cluster) = patched.get_mut("cluster").and_then(Value::as_object_mut) else {
        return Err(SpecError { path: "cluster".to_owned(), msg: "it is an object".to_owned() });
    };
    set_all(cluster, patch);
    merge(cluster, "roles", &patch.roles, &patch.remove_roles);
    merge(cluster, "databases", &patch.databases, &patch.remove_databases);
    if patched != *spec {
        parse(&patched)?;
    }
    Ok(patched)
}

/// The last of a name wins in a spec, and PostgreSQL's names know no case.
fn set_all(cluster: &mut Map<String, Value>, patch: &SpecPatch) {
    if patch.settings.is_empty() {
        return;
    }
    let mut list = match cluster.get("settings") {
        Some(Value::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let is = |entry: &Value, name: &str| entry["name"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(name));
    for (name, value) in &patch.settings {
        let Some((text, vartype)) = written(value) else {
            list.retain(|entry| !is(entry, name));
            continue;
        };
        match list.iter_mut().rfind(|entry| is(entry, name)) {
            Some(entry) if entry["value"].as_str() == Some(&text) => {}
            Some(entry) => {
                entry["value"] = json!(text);
                entry["vartype"] = json!(vartype);
            }
            None => list.push(json!({"name": name, "value": text, "vartype": vartype})),
        }
    }
    if !list.is_empty() || cluster.contains_key("settings") {
        let unset = cluster.get("settings").is_some_and(Value::is_null) && list.is_empty();
        if !unset {
            cluster.insert("settings".to_owned(), Value::Array(list));
        }
    }
}

/// Text and type of a setting's value; none for null.
fn written(value: &Value) -> Option<(String, &'static str)> {
    match value {
        Value::Bool(on) => Some((if *on { "on" } else { "off" }.to_owned(), "bool")),
        Value::Number(number) => Some((number.to_string(), if number.is_f64() { "real" } else { "integer" })),
        Value::String(text) => Some((text.clone(), "string")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn merge(cluster: &mut Map<String, Value>, field: &str, entries: &[Value], removed: &[String]) {
    let Some(list) = cluster.get_mut(field).and_then(Value::as_array_mut) else { return };
    list.retain(|entry| !entry["name"].as_str().is_some_and(|name| removed.iter().any(|gone| gone == name)));
    for entry in entries {
        let at = list.iter().position(|known| known["name"] == entry["name"]);
        let mut merged = at.and_then(|at| list[at].as_object().cloned()).unwrap_or_default();
        for (key, value) in entry.as_object().into_iter().flatten() {
            if value.is_null() {
                merged.remove(key);
            } else {
                merged.insert(key.clone(), value.clone());
            }
        }
        match at {
            Some(at) => list[at] = Value::Object(merged),
            None => list.push(Value::Object(merged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(value: Value) -> SpecPatch {
        serde_json::from_value(value).unwrap()
    }

    fn spec() -> Value {
        json!({"format_version": 1.0, "suspend_timeout_seconds": -1, "cluster": {
            "roles": [{"name": "app", "encrypted_password": null, "options": null}],
            "databases": [{"name": "app", "owner": "app"}],
            "settings": [
                {"name": "work_mem", "value": "1MB", "vartype": "string"},
                {"name": "Work_Mem", "value": "4MB", "vartype": "string"},
                {"name": "fsync", "value": "on", "vartype": "bool"}]}})
    }

    #[test]
    fn settings_are_set_added_and_taken_out_by_name_whatever_its_case() {
        let patched = apply(
            &patch(json!({"settings": {"work_mem": "64MB", "fsync": null, "max_wal_size": 2, "jit": false}})),
            &spec(),
        )
        .unwrap();
        assert_eq!(
            patched["cluster"]["settings"],
            json!([
                {"name": "work_mem", "value": "1MB", "vartype": "string"},
                {"name": "Work_Mem", "value": "64MB", "vartype": "string"},
                {"name": "jit", "value": "off", "vartype": "bool"},
                {"name": "max_wal_size", "value": "2", "vartype": "integer"}])
        );
        assert_eq!(
            apply(&patch(json!({"settings": {"work_mem": null}})), &spec()).unwrap()["cluster"]["settings"][0]["name"],
            "fsync"
        );
    }

    #[test]
    fn what_is_so_already_changes_nothing() {
        for same in [
            json!({"settings": {"work_mem": "4MB"}}),
            json!({"settings": {"fsync": true}}),
            json!({"settings": {"absent": null}}),
            json!({"roles": [{"name": "app"}], "remove_roles": ["nobody"]}),
            json!({"databases": [{"name": "app", "owner": "app"}]}),
        ] {
            assert_eq!(apply(&patch(same.clone()), &spec()).unwrap(), spec(), "{same}");
        }
        let mut bare = spec();
        bare["cluster"].as_object_mut().unwrap().remove("settings");
        assert_eq!(apply(&patch(json!({"settings": {"absent": null}})), &bare).unwrap(), bare);
        assert_eq!(apply(&patch(json!({"settings": {"a": 1}})), &bare).unwrap()["cluster"]["settings"][0]["name"], "a");
    }

    #[test]
    fn roles_and_databases_are_merged_by_name_and_taken_out_by_list() {
        let both = patch(json!({
            "roles": [{"name": "app", "encrypted_password": "0123456789abcdef0123456789abcdef"}, {"name": "new"}],
            "databases": [{"name": "more", "owner": "new"}], "remove_databases": ["app"]}));
        let patched = apply(&both, &spec()).unwrap();
        assert_eq!(patched["cluster"]["roles"][0]["encrypted_password"], "0123456789abcdef0123456789abcdef");
        assert!(patched["cluster"]["roles"][0].get("options").is_some(), "what is not named stays");
        assert_eq!(patched["cluster"]["roles"][1], json!({"name": "new"}));
        assert_eq!(patched["cluster"]["databases"], json!([{"name": "more", "owner": "new"}]));
        assert_eq!(apply(&both, &patched).unwrap(), patched, "twice is once");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_path() {
        for (bad, path) in [
            (json!({}), "patch"),
            (json!({"settings": {"": 1}}), "patch.settings."),
            (json!({"settings": {"a": [1]}}), "patch.settings.a"),
            (json!({"settings": {"a": "1\n2"}}), "patch.settings.a"),
            (json!({"roles": [{"nam": "x"}]}), "patch.roles[0]"),
            (json!({"roles": [{"name": "x"}, {"name": "x"}]}), "patch.roles[1].name"),
            (json!({"roles": [{"name": "x"}], "remove_roles": ["x"]}), "patch.remove_roles[0]"),
            (json!({"databases": [{"name": "x".repeat(64)}]}), "patch.databases[0].name"),
            (json!({"remove_databases": ["a", "a"]}), "patch.remove_databases[1]"),
        ] {
            assert_eq!(check(&patch(bad.clone())).unwrap_err().path, path, "{bad}");
        }
        assert!(check(&patch(json!({"settings": {"a": null}}))).is_ok());
        let no_owner = apply(&patch(json!({"databases": [{"name": "x"}]})), &spec()).unwrap_err();
        assert!(no_owner.path.starts_with("cluster.databases[1]"), "{no_owner}");
        let bad_verifier = apply(&patch(json!({"roles": [{"name": "x", "encrypted_password": "plain"}]})), &spec());
        assert_eq!(bad_verifier.unwrap_err().path, "cluster.roles[1].encrypted_password");
        assert_eq!(apply(&patch(json!({"settings": {"a": 1}})), &json!([])).unwrap_err().path, "cluster");
    }
}
