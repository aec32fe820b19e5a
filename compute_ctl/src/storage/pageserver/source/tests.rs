//! Which specs name page-server storage, what of it is read, and what is refused.

use serde_json::{Value, json};

use super::*;

const TENANT: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";
const TIMELINE: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

fn minimal() -> Value {
    json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": [], "databases": []},
        "tenant_id": TENANT, "timeline_id": TIMELINE,
        "pageserver_connstring": "postgresql://no_user@ps-1:6400", "safekeeper_connstrings": ["sk-1:5454"]})
}

fn read(document: &Value) -> Result<Option<Source>, SourceError> {
    Source::of(&serde_json::from_value(document.clone()).unwrap())
}

fn urls(source: &Source) -> Vec<Vec<&str>> {
    source.shards.iter().map(|shard| shard.iter().map(|url| url.0.as_str()).collect()).collect()
}

#[test]
fn without_a_word_of_storage_it_is_stock() {
    let stock = json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": [], "databases": []}});
    assert_eq!(read(&stock), Ok(None));
}

#[test]
fn fields() {
    let source = read(&minimal()).unwrap().unwrap();
    assert_eq!(urls(&source), [["postgresql://no_user@ps-1:6400"]]);
    assert_eq!((source.role, source.sharded), (Role::Primary, false));
    assert_eq!(source.tenant_shard(0), TENANT);
    assert!(!format!("{source:?}").contains("ps-1"), "a connection string may hold a password");

    let mut sharded = minimal();
    sharded["mode"] = json!({"Static": "0/1A2B3C8"});
    sharded["safekeeper_connstrings"] = json!([]);
    sharded["pageserver_connection_info"] = json!({"shard_count": 2, "stripe_size": 2048, "shards": {
        "0102": {"pageservers": [{"id": 12, "libpq_url": "b", "grpc_url": null}]},
        "0002": {"pageservers": [{"grpc_url": "grpc://x"}, {"libpq_url": "a"}, {"libpq_url": "a2"}]}}});
    let source = read(&sharded).unwrap().unwrap();
    assert_eq!(urls(&source), [vec!["a", "a2"], vec!["b"]]);
    assert_eq!((source.role, source.stripe_size), (Role::Static(Lsn(0x1A2_B3C8)), Some(2048)));
    assert_eq!(source.tenant_shard(1), format!("{TENANT}-0102"));

    let mut one = minimal();
    one["pageserver_connection_info"] =
        json!({"shard_count": 1, "shards": {"0001": {"pageservers": [{"libpq_url": "a"}]}}});
    assert_eq!(read(&one).unwrap().unwrap().tenant_shard(0), format!("{TENANT}-0001"));
}

#[test]
fn settings_stand_in_for_fields() {
    let setting = |name: &str, value: &str| json!({"name": name, "value": value, "vartype": "string"});
    let spec = json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": [], "databases": [],
        "settings": [
            setting("neon.tenant_id", &TENANT.to_uppercase()), setting("neon.timeline_id", TIMELINE),
            setting("neon.pageserver_connstring", "postgresql://a, postgresql://b"), setting("neon.stripe_size", "16"),
            setting("neon.safekeepers", "g#7:sk-1:1,sk-2:2")]}});
    let source = read(&spec).unwrap().unwrap();
    assert_eq!(source.tenant_id, TENANT);
    assert_eq!(urls(&source), [["postgresql://a"], ["postgresql://b"]]);
    assert_eq!((source.stripe_size, source.sharded), (Some(16), true));
    assert_eq!((source.safekeepers_generation, source.safekeepers.len()), (Some(7), 2));
}

#[test]
fn every_refusal_names_its_field() {
    let shards = |shards: Value| json!({"shard_count": 2, "stripe_size": 1, "shards": shards});
    let at = |url: &str| json!({"pageservers": [{"libpq_url": url}]});
    let rows = [
        ("tenant_id", json!("A1"), "tenant_id"),
        ("tenant_id", Value::Null, "tenant_id"),
        ("timeline_id", json!(format!("{}'", &TIMELINE[1..])), "timeline_id"),
        ("timeline_id", Value::Null, "timeline_id"),
        ("pageserver_connstring", Value::Null, "pageserver_connection_info"),
        ("pageserver_connstring", json!("a,,b"), "pageserver_connstring"),
        ("pageserver_connstring", json!("a,b"), "pageserver_connstring"),
        ("safekeeper_connstrings", json!([]), "safekeeper_connstrings"),
        ("safekeeper_connstrings", json!(["a:1", "a:1"]), "safekeeper_connstrings"),
        ("safekeeper_connstrings", json!(["a"]), "safekeeper_connstrings"),
        ("safekeeper_connstrings", json!(["a:99999"]), "safekeeper_connstrings"),
        ("safekeeper_connstrings", json!(["a:1,b:2"]), "safekeeper_connstrings"),
        ("mode", json!({"Static": "16ABCD8"}), "mode"),
        ("pageserver_connection_info", shards(json!({"0002": at("a")})), "pageserver_connection_info.shards"),
        (
            "pageserver_connection_info",
            shards(json!({"0002": at("a"), "0202": at("b")})),
            "pageserver_connection_info.shards.0202",
        ),
        (
            "pageserver_connection_info",
            shards(json!({"0002": at("a"), "0102": {"pageservers": [{"grpc_url": "grpc://b"}]}})),
            "pageserver_connection_info.shards.0102",
        ),
        (
            "pageserver_connection_info",
            json!({"shard_count": 2, "shards": {"0002": at("a"), "0102": at("b")}}),
            "pageserver_connection_info.stripe_size",
        ),
        ("pageserver_connection_info", shards(json!({"0é2": at("a")})), "pageserver_connection_info.shards.0é2"),
    ];
    for (field, value, path) in rows {
        let mut spec = minimal();
        spec[field] = value.clone();
        assert_eq!(read(&spec).unwrap_err().path, path, "{field}: {value}");
    }
}
