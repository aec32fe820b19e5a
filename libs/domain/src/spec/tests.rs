//! Specs that are taken, specs that are refused and where, and what is listed as not acted on.

mod property;
mod refusals;

use serde_json::{Value, json};

use super::*;

pub(super) const FULL: &str = include_str!("fixtures/full.json");

pub(super) fn full() -> Value {
    serde_json::from_str(FULL).unwrap()
}

pub(super) fn minimal() -> Value {
    json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": [], "databases": []}})
}

/// The smallest spec that names page servers, in fields.
pub(super) fn on_page_server() -> Value {
    let mut spec = minimal();
    spec["tenant_id"] = json!("0".repeat(32));
    spec["timeline_id"] = json!("F".repeat(32));
    spec["pageserver_connstring"] = json!("postgresql://no_user@pages:6400");
    spec["safekeeper_connstrings"] = json!(["wal:5454"]);
    spec
}

/// The same in settings.
fn on_page_server_by_settings() -> Value {
    let mut spec = minimal();
    let settings = [
        ("neon.tenant_id", "0".repeat(32)),
        ("Neon.Timeline_ID", "a".repeat(32)),
        ("neon.pageserver_connstring", "postgresql://a@p:1,postgresql://a@q:1".to_owned()),
        ("neon.stripe_size", "2048".to_owned()),
        ("neon.safekeepers", "g#3:wal-a:5454,wal-b:5454".to_owned()),
    ];
    let settings = settings.map(|(name, value)| json!({"name": name, "value": value, "vartype": "string"}));
    spec["cluster"]["settings"] = json!(settings);
    spec
}

fn ignored(spec: &Value) -> Vec<String> {
    parse(spec).unwrap().ignored_fields
}

/// A spec without page servers: every field that only they serve is left out.
fn on_stock(mut spec: Value) -> Value {
    for field in ["tenant_id", "timeline_id", "pageserver_connection_info"] {
        spec.as_object_mut().unwrap().remove(field);
    }
    spec
}

#[test]
fn a_minimal_spec_is_enough() {
    let parsed = parse(&minimal()).unwrap();
    assert!(parsed.ignored_fields.is_empty());
    assert!(!parsed.spec.skip_pg_catalog_updates);
    assert_eq!((parsed.spec.reconfigure_concurrency, parsed.storage), (1, StorageKind::Stock));
}

#[test]
fn every_field_of_a_full_spec_is_read() {
    let parsed = parse(&full()).unwrap();
    assert_eq!(parsed.storage, StorageKind::PageServer);
    assert_eq!(parsed.spec.delta_operations.as_ref().map(Vec::len), Some(4));
    assert_eq!(parsed.spec.pageserver_connection_info.as_ref().map(|info| info.shards.len()), Some(2));
    assert!(!format!("{:?}", parsed.spec).contains("not.a.token"), "Debug shows a token");
    assert_eq!(
        parsed.ignored_fields,
        [
            "audit_log_level",
            "autoprewarm",
            "disk_quota_bytes",
            "endpoint_storage_addr",
            "endpoint_storage_token",
            "features[0]",
            "features[2]",
            "local_proxy_config",
            "logs_export_host",
            "offload_lfc_interval_seconds",
            "pageserver_connection_info.shards.0002.pageservers[0].grpc_url",
            "pgbouncer_settings",
            "remote_extensions",
            "swap_size_bytes",
        ]
    );
}

#[test]
fn on_stock_postgresql_what_page_servers_need_is_listed_too() {
    let spec = on_stock(full());
    let parsed = parse(&spec).unwrap();
    assert_eq!(parsed.storage, StorageKind::Stock);
    assert_eq!(
        parsed.ignored_fields,
        [
            "audit_log_level",
            "autoprewarm",
            "branch_id",
            "disk_quota_bytes",
            "endpoint_id",
            "endpoint_storage_addr",
            "endpoint_storage_token",
            "features[0]",
            "features[2]",
            "local_proxy_config",
            "logs_export_host",
            "offload_lfc_interval_seconds",
            "pgbouncer_settings",
            "project_id",
            "remote_extensions",
            "safekeeper_connstrings",
            "safekeepers_generation",
            "storage_auth_token",
            "swap_size_bytes",
        ]
    );
}

#[test]
fn what_asks_for_nothing_is_not_listed() {
    let mut spec = minimal();
    let nothing = json!({
        "timestamp": "now", "operation_uuid": null, "features": [], "swap_size_bytes": null, "disable_lfc_resizing": false,
        "safekeeper_connstrings": [], "audit_log_level": "Disabled", "autoprewarm": false, "reconfigure_concurrency": 1,
        "pgbouncer_settings": {}, "remote_extensions": null, "mode": "Primary", "delta_operations": [],
        "primary_connstring": null, "unheard_of": null
    });
    spec.as_object_mut().unwrap().extend(nothing.as_object().unwrap().clone());
    spec["cluster"]["cluster_id"] = json!("c");
    spec["cluster"]["state"] = json!("active");
    spec["cluster"]["databases"] = json!([{"name": "d", "owner": "o", "restrict_conn": false, "invalid": false}]);
    assert_eq!(ignored(&spec), [""; 0]);
}

#[test]
fn what_is_not_known_is_listed_at_every_level() {
    let mut spec = full();
    spec["unheard_of"] = json!(false);
    spec["features"] = json!(["activity_monitor_experimental"]);
    spec["cluster"]["colour"] = json!("red");
    spec["cluster"]["roles"][0]["colour"] = json!("red");
    spec["cluster"]["roles"][1]["options"][0]["colour"] = json!("red");
    spec["cluster"]["databases"][1]["invalid"] = json!(true);
    spec["cluster"]["settings"][3]["colour"] = json!("red");
    spec["delta_operations"] = json!([
        {"action": "delete_db", "name": "x", "new_name": "y"},
        {"action": "freeze_db", "name": "", "since": 1}]);
    spec["pageserver_connection_info"]["prefer_protocol"] = json!("grpc");
    spec["pageserver_connection_info"]["shards"]["0102"]["colour"] = json!("red");
    let ignored = ignored(&spec);
    for path in [
        "unheard_of",
        "cluster.colour",
        "cluster.roles[0].colour",
        "cluster.roles[1].options[0].colour",
        "cluster.databases[1].invalid",
        "cluster.settings[3].colour",
        "delta_operations[0].new_name",
        "delta_operations[1].action",
        "delta_operations[1].since",
        "pageserver_connection_info.prefer_protocol",
        "pageserver_connection_info.shards.0102.colour",
    ] {
        assert!(ignored.iter().any(|listed| listed == path), "{path} is not in {ignored:?}");
    }
    assert!(!ignored.iter().any(|path| path.starts_with("features")), "{ignored:?}");
}

#[test]
fn the_list_has_an_end() {
    let mut spec = minimal();
    for n in 0..1500 {
        spec[format!("{n:04}{}", "x".repeat(400))] = json!(1);
    }
    let ignored = ignored(&spec);
    assert_eq!((ignored.len(), ignored.last().map(String::as_str)), (1001, Some("... and 500 more")));
    assert!(ignored.iter().all(|path| path.len() <= 300));
}

#[test]
fn a_replica_on_stock_postgresql_names_its_primary() {
    let mut spec = minimal();
    spec["mode"] = json!("Replica");
    spec["primary_connstring"] = json!("postgresql://replicator@[fd00::1]:5433/postgres?sslmode=require");
    spec["primary_password"] = json!("hidden");
    spec["primary_slot_name"] = json!("replica_1");
    let parsed = parse(&spec).unwrap();
    assert!(parsed.ignored_fields.is_empty(), "{:?}", parsed.ignored_fields);
    assert!(!format!("{parsed:?}").contains("hidden"));
    spec["mode"] = json!("Primary");
    assert_eq!(ignored(&spec), ["primary_connstring", "primary_password", "primary_slot_name"]);
}

#[test]
fn storage_may_be_named_by_fields_or_by_settings() {
    for mut spec in [on_page_server(), on_page_server_by_settings()] {
        assert_eq!(parse(&spec).unwrap().storage, StorageKind::PageServer);
        assert_eq!(ignored(&spec), [""; 0]);
        for mode in [json!("Replica"), json!({"Static": "0/16ABCD8"})] {
            spec["mode"] = mode;
            spec["safekeeper_connstrings"] = json!([]);
            assert!(parse(&spec).is_ok());
        }
    }
    let mut both = full();
    both["pageserver_connstring"] = json!("postgresql://a@b:1");
    assert!(ignored(&both).contains(&"pageserver_connstring".to_owned()), "the newer way wins");
    let mut unsharded = on_page_server();
    unsharded["pageserver_connection_info"] =
        json!({"shard_count": 0, "shards": {"0000": {"pageservers": [{"libpq_url": "postgres://a@b:1"}]}}});
    assert_eq!(ignored(&unsharded), ["pageserver_connstring"]);
}
