//! Which fields of a spec are not acted on, so that its owner sees what he asked for in vain.
//!
//! A field that asks for nothing is never listed: null, false, an empty list or object, a default. What a spec is about
//! decides as well: fields of page servers count where it names any, the primary's where it is a replica without them.

use pgfleet_api::spec::{ComputeMode, ComputeSpec};
use serde_json::Value;

use super::deltas;
use super::storage::StorageKind;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It is acted on, or only informs.
    Taken,
    /// It is listed if it asks for something.
    Ignored,
    /// It is not known.
    Unknown,
}

const CLUSTER_FIELDS: [&str; 7] = ["cluster_id", "name", "state", "roles", "databases", "postgresql_conf", "settings"];
const ROLE_FIELDS: [&str; 3] = ["name", "encrypted_password", "options"];
const DATABASE_FIELDS: [&str; 3] = ["name", "owner", "options"];
const OPTION_FIELDS: [&str; 3] = ["name", "value", "vartype"];
const DELTA_FIELDS: [&str; 3] = ["action", "name", "new_name"];
const INFO_FIELDS: [&str; 4] = ["shard_count", "stripe_size", "shards", "prefer_protocol"];
const SHARD_FIELDS: [&str; 1] = ["pageservers"];
const PAGESERVER_FIELDS: [&str; 2] = ["id", "libpq_url"];
/// Paths that are listed one by one.
const MOST_LISTED: usize = 1000;
/// The one switch that does something here.
const ACTIVITY: &str = "activity_monitor_experimental";

/// What becomes of a field of the spec itself.
fn fate(field: &str, spec: &ComputeSpec, storage: StorageKind) -> Use {
    let taken_if = |condition| if condition { Use::Taken } else { Use::Ignored };
    let on_page_server = storage == StorageKind::PageServer;
    match field {
        "format_version" | "timestamp" | "operation_uuid" => Use::Taken,
        "suspend_timeout_seconds" | "cluster" | "delta_operations" | "features" => Use::Taken,
        "skip_pg_catalog_updates" | "reconfigure_concurrency" | "drop_subscriptions_before_start" => Use::Taken,
        "mode" | "restart_policy" | "on_failure" => Use::Taken,
        "primary_connstring" | "primary_password" | "primary_slot_name" => {
            taken_if(!on_page_server && spec.mode == ComputeMode::Replica)
        }
        "tenant_id" | "timeline_id" | "pageserver_connection_info" => taken_if(on_page_server),
        // The newer way to name page servers wins.
        "pageserver_connstring" | "shard_stripe_size" => {
            taken_if(on_page_server && spec.pageserver_connection_info.is_none())
        }
        "safekeepers_generation" | "safekeeper_connstrings" | "storage_auth_token" => taken_if(on_page_server),
        "project_id" | "branch_id" | "endpoint_id" => taken_if(on_page_server),
        "swap_size_bytes" | "disk_quota_bytes" | "disable_lfc_resizing" => Use::Ignored,
        "remote_extensions" | "pgbouncer_settings" | "local_proxy_config" | "databricks_settings" => Use::Ignored,
        "audit_log_level" | "logs_export_host" | "autoprewarm" | "offload_lfc_interval_seconds" => Use::Ignored,
        "endpoint_storage_addr" | "endpoint_storage_token" => Use::Ignored,
        _ => Use::Unknown,
    }
}

/// Paths of everything that is not acted on, sorted.
pub(super) fn ignored_fields(document: &Value, spec: &ComputeSpec, storage: StorageKind) -> Vec<String> {
    let mut found = Vec::new();
    for (field, value) in document.as_object().into_iter().flatten() {
        let listed = match fate(field, spec, storage) {
            Use::Taken => false,
            Use::Ignored => asks_for_something(field, value),
            Use::Unknown => !value.is_null(),
        };
        if listed {
            found.push(field.clone());
        }
    }
    note_features(&document["features"], &mut found);
    note_cluster(&document["cluster"], &mut found);
    note_deltas(&document["delta_operations"], &mut found);
    if storage == StorageKind::PageServer {
        note_page_servers(&document["pageserver_connection_info"], &mut found);
    }
    found.sort();
    limited(found)
}

/// The list is published and stored, so a document of nothing but unknown fields must not make it endless.
fn limited(mut found: Vec<String>) -> Vec<String> {
    let more = found.len().saturating_sub(MOST_LISTED);
    found.truncate(MOST_LISTED);
    for path in &mut found {
        *path = super::shortened(std::mem::take(path));
    }
    if more > 0 {
        found.push(format!("... and {more} more"));
    }
    found
}

fn asks_for_something(field: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !(field == "audit_log_level" && text == "Disabled"),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

fn note_features(features: &Value, found: &mut Vec<String>) {
    for (i, feature) in items(features) {
        if feature != ACTIVITY {
            found.push(format!("features[{i}]"));
        }
    }
}

fn note_cluster(cluster: &Value, found: &mut Vec<String>) {
    note_unknown(cluster, "cluster.", &CLUSTER_FIELDS, found);
    for (list, fields) in [("roles", &ROLE_FIELDS), ("databases", &DATABASE_FIELDS), ("settings", &OPTION_FIELDS)] {
        for (i, item) in items(&cluster[list]) {
            let path = format!("cluster.{list}[{i}].");
            note_unknown(item, &path, fields, found);
            if list == "settings" {
                continue;
            }
            for (j, option) in items(&item["options"]) {
                note_unknown(option, &format!("{path}options[{j}]."), &OPTION_FIELDS, found);
            }
        }
    }
}

fn note_deltas(deltas: &Value, found: &mut Vec<String>) {
    for (i, delta) in items(deltas) {
        let path = format!("delta_operations[{i}].");
        note_unknown(delta, &path, &DELTA_FIELDS, found);
        let action = delta["action"].as_str().unwrap_or_default();
        if !deltas::is_known(action) {
            found.push(format!("{path}action"));
        } else if !deltas::renames(action) && !delta["new_name"].is_null() {
            found.push(format!("{path}new_name"));
        }
    }
}

fn note_page_servers(info: &Value, found: &mut Vec<String>) {
    let path = "pageserver_connection_info.";
    note_unknown(info, path, &INFO_FIELDS, found);
    if info["prefer_protocol"] == "grpc" {
        found.push(format!("{path}prefer_protocol"));
    }
    for (key, shard) in info["shards"].as_object().into_iter().flatten() {
        let path = format!("{path}shards.{key}.");
        note_unknown(shard, &path, &SHARD_FIELDS, found);
        for (i, server) in items(&shard["pageservers"]) {
            note_unknown(server, &format!("{path}pageservers[{i}]."), &PAGESERVER_FIELDS, found);
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

/// A field that is null asks for nothing; `false` in one that only agents write neither.
fn note_unknown(value: &Value, prefix: &str, known: &[&str], found: &mut Vec<String>) {
    const WRITTEN_BY_AGENTS: [&str; 2] = ["restrict_conn", "invalid"];
    for (key, inner) in value.as_object().into_iter().flatten() {
        let nothing = inner.is_null() || (*inner == false && WRITTEN_BY_AGENTS.contains(&key.as_str()));
        if !nothing && !known.contains(&key.as_str()) {
            found.push(format!("{prefix}{key}"));
        }
    }
}
