//! Every rule refuses, and names the field.

use serde_json::{Value, json};

use super::{full, minimal, on_page_server, on_page_server_by_settings};
use crate::spec::parse;

/// A spec with something in each list.
fn some() -> Value {
    json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {
        "roles": [{"name": "a", "encrypted_password": null, "options": [{"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}]}],
        "databases": [{"name": "d", "owner": "a"}],
        "settings": [{"name": "work_mem", "value": "8MB", "vartype": "string"}]}})
}

fn some_setting(value: &str) -> Value {
    json!({"name": "work_mem", "value": value, "vartype": "string"})
}

fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match spec.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        parent => parent[key] = value,
    }
    spec
}

/// Asserts that each change of the spec is refused at its path, and that no refusal shows a secret.
fn refused(spec: &Value, rows: &[(&str, Value, &str)]) {
    parse(spec).unwrap();
    for (pointer, value, path) in rows {
        match parse(&with(spec.clone(), pointer, value.clone())) {
            Ok(_) => panic!("{pointer} = {value} was taken"),
            Err(error) => {
                assert_eq!(error.path, *path, "{pointer} = {value}: {}", error.msg);
                assert!(!error.to_string().contains("secret"), "{error}");
            }
        }
    }
}

#[test]
fn names_options_settings_and_numbers() {
    let rows = [
        ("/cluster/roles/0/name", json!(""), "cluster.roles[0].name"),
        ("/cluster/roles/0/name", json!("x".repeat(64)), "cluster.roles[0].name"),
        ("/cluster/roles/0/name", json!("a\0b"), "cluster.roles[0].name"),
        ("/cluster/roles/0/name", json!(7), "cluster.roles[0].name"),
        ("/cluster/roles/0/encrypted_password", json!("secret"), "cluster.roles[0].encrypted_password"),
        ("/cluster/roles/0/encrypted_password", json!(["secret"]), "cluster.roles[0].encrypted_password"),
        ("/cluster/roles/0", json!("secret"), "cluster.roles[0]"),
        ("/cluster/roles/0/options/0/name", json!("LIMIT; DROP"), "cluster.roles[0].options[0].name"),
        ("/cluster/roles/0/options/0/value", json!("5 SUPERUSER"), "cluster.roles[0].options[0].value"),
        ("/cluster/roles", json!([{"name": "a"}, {"name": "a"}]), "cluster.roles[1].name"),
        (
            "/cluster/databases",
            json!([{"name": "d", "owner": "a"}, {"name": "d", "owner": "a"}]),
            "cluster.databases[1].name",
        ),
        ("/cluster/databases/0/name", json!("\u{1f418}".repeat(16)), "cluster.databases[0].name"),
        ("/cluster/databases/0/owner", json!(""), "cluster.databases[0].owner"),
        ("/cluster/settings/0/name", json!("1x"), "cluster.settings[0].name"),
        ("/cluster/settings/0/value", json!("a\nport=1"), "cluster.settings[0].value"),
        ("/cluster/settings/0/value", Value::Null, "cluster.settings[0].value"),
        ("/cluster/settings/0/value", json!("x".repeat(20_000)), "cluster.settings[0].value"),
        ("/cluster/settings/0/name", json!("x".repeat(129)), "cluster.settings[0].name"),
        ("/cluster/settings", json!(vec![some_setting("v"); 2001]), "cluster.settings[2000]"),
        ("/cluster/settings", json!(vec![some_setting(&"x".repeat(16_000)); 100]), "cluster.settings[65]"),
        ("/cluster/postgresql_conf", json!("a=1\n".repeat(2001)), "cluster.postgresql_conf"),
        ("/cluster/postgresql_conf", json!(format!("a='{}'", "x".repeat(20_000))), "cluster.postgresql_conf"),
        ("/cluster/postgresql_conf", json!(format!("#{}\n", "x".repeat(1000)).repeat(600)), "cluster.postgresql_conf"),
        ("/suspend_timeout_seconds", json!("secret"), "suspend_timeout_seconds"),
        ("/suspend_timeout_seconds", json!(-2), "suspend_timeout_seconds"),
        ("/suspend_timeout_seconds", json!(i64::MAX), "suspend_timeout_seconds"),
        ("/suspend_timeout_seconds", json!(u64::MAX), "suspend_timeout_seconds"),
        ("/suspend_timeout_seconds", json!(0.5), "suspend_timeout_seconds"),
        ("/reconfigure_concurrency", json!(0), "reconfigure_concurrency"),
        ("/reconfigure_concurrency", json!(-1), "reconfigure_concurrency"),
        ("/reconfigure_concurrency", json!(1_000_000), "reconfigure_concurrency"),
        ("/swap_size_bytes", json!(-1), "swap_size_bytes"),
        ("/offload_lfc_interval_seconds", json!(0), "offload_lfc_interval_seconds"),
        ("/features", json!("x"), "features"),
        ("/audit_log_level", json!("log"), "audit_log_level"),
        ("/restart_policy", json!("always"), "restart_policy"),
        ("/on_failure", json!("Rollback"), "on_failure"),
        ("/pgbouncer_settings", json!([]), "pgbouncer_settings"),
        ("/remote_extensions", json!("secret"), "remote_extensions"),
        ("/storage_auth_token", json!({"secret": 1}), "storage_auth_token"),
    ];
    refused(&some(), &rows);
}

#[test]
fn what_is_no_spec_at_all() {
    for (document, path) in [
        (json!(null), "."),
        (json!([]), "."),
        (json!("secret"), "."),
        (json!({}), "."),
        (json!({"format_version": 1.0, "suspend_timeout_seconds": 0}), "."),
        (json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": []}}), "cluster"),
    ] {
        let error = parse(&document).unwrap_err();
        assert_eq!(error.path, path, "{document}: {}", error.msg);
        assert!(!error.msg.contains("secret"));
    }
    let mut spec = minimal();
    spec["cluster"].as_object_mut().unwrap().remove("roles");
    assert!(parse(&spec).unwrap_err().msg.contains("roles"), "the missing field is named");
}

#[test]
fn depth_and_length_have_an_end() {
    let nest = |levels: usize| (0..levels).fold(json!("x"), |inner, _| json!([inner]));
    // The document is a level of its own.
    assert!(parse(&with(minimal(), "/unheard_of", nest(63))).is_ok());
    let error = parse(&with(minimal(), "/unheard_of", nest(64))).unwrap_err();
    assert!(error.path.starts_with("unheard_of[0]") && error.path.len() <= 300, "{}", error.path);
    let long = "k".repeat(100_000);
    let error = parse(&with(minimal(), &format!("/{long}"), json!("a\0b"))).unwrap_err();
    assert!(error.path.len() <= 300 && error.msg.len() <= 300);
    let error = parse(&with(minimal(), "/mode", json!(long))).unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
}

#[test]
fn deltas() {
    let one =
        |action: &str, name: &str, new_name: Value| json!([{"action": action, "name": name, "new_name": new_name}]);
    let two = |first: (&str, &str, &str), second: (&str, &str, &str)| {
        json!([first, second].map(|(action, name, new)| match new {
            "" => json!({"action": action, "name": name}),
            new => json!({"action": action, "name": name, "new_name": new}),
        }))
    };
    let at = "/delta_operations";
    let rows = [
        (at, one("rename_role", "x", Value::Null), "delta_operations[0].new_name"),
        (at, one("rename_db", "x", json!("")), "delta_operations[0].new_name"),
        (at, one("rename_db", "x", json!("y".repeat(64))), "delta_operations[0].new_name"),
        (at, one("rename_db", "x", json!("x")), "delta_operations[0].new_name"),
        (at, one("rename_role", "x", json!("pg_x")), "delta_operations[0].new_name"),
        (at, one("delete_role", "", Value::Null), "delta_operations[0].name"),
        (at, one("delete_role", "pg_monitor", Value::Null), "delta_operations[0].name"),
        (at, one("delete_db", &"x".repeat(64), Value::Null), "delta_operations[0].name"),
        (at, one("delete_db", "template1", Value::Null), "delta_operations[0].name"),
        (at, one("rename_db", "template0", json!("x")), "delta_operations[0].name"),
        (at, json!([{"action": "delete_db"}]), "delta_operations[0]"),
        // Both wanted and gone.
        (at, one("delete_role", "b", Value::Null), "delta_operations[0].name"),
        (at, one("delete_db", "d", Value::Null), "delta_operations[0].name"),
        (at, one("rename_role", "b", json!("x")), "delta_operations[0].name"),
        (at, one("rename_db", "d", json!("x")), "delta_operations[0].name"),
        // Against each other.
        (at, two(("rename_role", "x", "y"), ("rename_role", "y", "z")), "delta_operations[1].name"),
        (at, two(("rename_role", "y", "z"), ("rename_role", "x", "y")), "delta_operations[1].new_name"),
        (at, two(("rename_db", "x", "z"), ("rename_db", "y", "z")), "delta_operations[1].new_name"),
        (at, two(("rename_db", "x", "y"), ("rename_db", "x", "z")), "delta_operations[1].name"),
        (at, two(("delete_db", "y", ""), ("rename_db", "x", "y")), "delta_operations[1].new_name"),
        (at, two(("rename_role", "x", "y"), ("delete_role", "x", "")), "delta_operations[1].name"),
        // An owner that will not be there.
        (at, one("delete_role", "o", Value::Null), "cluster.databases[1].owner"),
        (at, one("rename_role", "o", json!("p")), "cluster.databases[1].owner"),
    ];
    let mut spec = some();
    spec["cluster"]["roles"][0]["name"] = json!("b");
    spec["cluster"]["databases"] = json!([{"name": "d", "owner": "b"}, {"name": "e", "owner": "o"}]);
    refused(&spec, &rows);
    for good in [
        two(("delete_db", "x", ""), ("delete_db", "x", "")),
        two(("rename_role", "x", "b"), ("rename_db", "x", "d")),
        two(("rename_role", "x", "o"), ("delete_db", "o", "")),
        two(("from_the_future", "", ""), ("delete_role", "x", "")),
    ] {
        parse(&with(spec.clone(), at, good)).unwrap();
    }
}

#[test]
fn modes_and_primaries() {
    let connstring = |text: &str| ("/primary_connstring", json!(text), "primary_connstring");
    let rows = [
        ("/mode", json!("primary"), "mode"),
        ("/mode", json!("Replica"), "primary_connstring"),
        ("/mode", json!({"Static": "0/1"}), "mode"),
        ("/safekeeper_connstrings", json!(["a:1", "b:1", "a:1"]), "safekeeper_connstrings[2]"),
        connstring("secret"),
        connstring("host=x password=secret"),
        connstring("https://u@secret/x"),
        connstring("postgresql://host:5432/x"),
        connstring("postgresql://u@/x"),
        connstring("postgresql://u:secret@h:5432/x"),
        connstring("postgresql://u@h:5432/x?password=secret"),
        connstring("postgresql://u@h:99999/x"),
        ("/primary_slot_name", json!("Slot"), "primary_slot_name"),
        ("/primary_slot_name", json!(""), "primary_slot_name"),
    ];
    refused(&some(), &rows);
}

#[test]
fn page_servers_and_safekeepers() {
    let url = json!("postgresql://a@p:6400");
    let shard = |key: &str| json!({key: {"pageservers": [{"libpq_url": url}]}});
    let info = |count: u32, stripe: Value, shards: Value| json!({"shard_count": count, "stripe_size": stripe, "shards": shards});
    let at = "/pageserver_connection_info";
    let mut rows = vec![
        ("/tenant_id", Value::Null, "tenant_id"),
        ("/tenant_id", json!("0".repeat(31)), "tenant_id"),
        ("/timeline_id", json!("g".repeat(32)), "timeline_id"),
        ("/timeline_id", Value::Null, "timeline_id"),
        ("/pageserver_connstring", Value::Null, "pageserver_connection_info"),
        ("/pageserver_connstring", json!("host=p"), "pageserver_connstring"),
        ("/pageserver_connstring", json!("postgresql://a@p:1,postgresql://a@q:1"), "shard_stripe_size"),
        ("/shard_stripe_size", json!(0), "shard_stripe_size"),
        ("/safekeeper_connstrings", json!([]), "safekeeper_connstrings"),
        ("/safekeeper_connstrings", json!(["wal"]), "safekeeper_connstrings[0]"),
        ("/safekeeper_connstrings", json!(["a:1", "a:1"]), "safekeeper_connstrings[1]"),
        ("/mode", json!({"Static": "0-1"}), "mode"),
        ("/mode", json!({"Static": "123456789/0"}), "mode"),
        (at, info(0, Value::Null, shard("0001")), "pageserver_connection_info.shards.0001"),
        (at, info(1, Value::Null, shard("0101")), "pageserver_connection_info.shards.0101"),
        (at, info(1, Value::Null, shard("+001")), "pageserver_connection_info.shards.+001"),
        (at, info(2, json!(8), shard("0002")), "pageserver_connection_info.shards"),
        (at, info(0, Value::Null, json!({})), "pageserver_connection_info.shards"),
        (at, info(300, Value::Null, json!({})), "pageserver_connection_info.shard_count"),
        (at, info(0, json!(0), shard("0000")), "pageserver_connection_info.stripe_size"),
        (
            at,
            info(0, Value::Null, json!({"0000": {"pageservers": []}})),
            "pageserver_connection_info.shards.0000.pageservers",
        ),
        (
            at,
            info(0, Value::Null, json!({"0000": {"pageservers": [{"libpq_url": "grpc://x"}]}})),
            "pageserver_connection_info.shards.0000.pageservers[0].libpq_url",
        ),
    ];
    rows.push((
        at,
        json!({"shard_count": 0, "shards": {}, "prefer_protocol": "http"}),
        "pageserver_connection_info.prefer_protocol",
    ));
    refused(&on_page_server(), &rows);
    refused(
        &full(),
        &[("/pageserver_connection_info/stripe_size", Value::Null, "pageserver_connection_info.stripe_size")],
    );
    let setting = |i: usize, path: &'static str, value: &str| {
        let pointer: &'static str = [
            "/cluster/settings/0/value",
            "/cluster/settings/1/value",
            "/cluster/settings/2/value",
            "/cluster/settings/3/value",
            "/cluster/settings/4/value",
        ][i];
        (pointer, json!(value), path)
    };
    let rows = [
        setting(0, "cluster.settings[0].value", "secret"),
        setting(1, "cluster.settings[1].value", ""),
        setting(2, "cluster.settings[2].value", "p:1"),
        setting(3, "cluster.settings[3].value", "many"),
        setting(4, "cluster.settings[4].value", "wal-a:5454,wal-a:5454"),
        setting(4, "cluster.settings[4].value", ""),
        ("/cluster/settings/4/name", json!("neon.other"), "safekeeper_connstrings"),
    ];
    refused(&on_page_server_by_settings(), &rows);
}
