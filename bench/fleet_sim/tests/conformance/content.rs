//! Rows whose spec, fence, query or header is at fault. Each has a fence of its own, so that what is kept of a refused
//! generation shows in the status.

use serde_json::{Value, json};

use crate::row::{Row, fence, push, spec};

/// What PostgreSQL says of a value.
const VALUES: &[&str] = &["/msg", "/error"];
const PLANNED: &[&str] = &["/settings", "/refusal/msg"];

pub fn rows() -> Vec<Row> {
    let own = "sim-2".parse().unwrap();
    let mut rows = vec![push("a good one", &fence(&own, 1, 1, 'a'), &spec("content"))];
    for (generation, (name, bad)) in (2..).zip(bad_specs()) {
        let fence = fence(&own, 1, generation, 'a');
        // PostgreSQL's own words tell more than ours.
        rows.push(push(format!("a spec with {name}"), &fence, &bad).differs(VALUES));
        // The path was compared in the answer before; the words are PostgreSQL's own.
        let words: &[&str] = &["/error", "/error_detail", "/failures"];
        rows.push(push(format!("again a spec with {name}"), &fence, &bad).differs(words));
        let plan = json!({"spec": bad});
        rows.push(Row::new(format!("a plan with {name}"), "POST", "/plan").json(&plan).differs(PLANNED));
    }
    let good = serde_json::to_value(fence(&own, 2, 1000, 'a')).unwrap();
    for (name, broken) in broken_fences(&good) {
        for path in ["/configure", "/plan", "/promote", "/terminate"] {
            let body = json!({"spec": spec("content"), "fence": broken, "wal_flush_lsn": "0/0"});
            rows.push(Row::new(format!("{path}: a fence with {name}"), "POST", path).json(&body));
        }
    }
    rows.push(Row::new("no LSN", "POST", "/promote").json(&json!({"spec": spec("content"), "fence": good})));
    let bad_lsn = json!({"spec": spec("content"), "fence": good, "wal_flush_lsn": "x"});
    rows.push(Row::new("a bad LSN", "POST", "/promote").json(&bad_lsn));
    rows.extend(waits(&own));
    rows
}

/// Ways to say how long to wait, each with a generation of its own.
fn waits(own: &pgfleet_api::ComputeId) -> Vec<Row> {
    let mut rows = Vec::new();
    let queries = [
        "timeout_s=x",
        "timeout_s=-1",
        "timeout_s=1.5",
        "timeout_s=",
        "timeout_s=5",
        "timeout=5",
        "timeout_s=5&timeout_s=6",
    ];
    for (generation, query) in (2000..).zip(queries) {
        let body = json!({"spec": spec("content"), "fence": fence(own, 2, generation, 'a')});
        for path in ["/configure", "/spec", "/promote"] {
            rows.push(Row::new(format!("{path}?{query}"), "POST", &format!("{path}?{query}")).json(&body));
        }
    }
    for query in ["mode=x", "mode=", "mode=Fast", "if_idle_ms=x", "if_idle_ms=-1", "mode=fast&more=1"] {
        rows.push(Row::new(format!("/terminate?{query}"), "POST", &format!("/terminate?{query}")));
    }
    for query in ["", "db=x", "database=x&database=y", "database=x&more=1"] {
        rows.push(Row::new(format!("/database_schema?{query}"), "GET", &format!("/database_schema?{query}")));
    }
    for query in ["format=x", "format=", "form=string"] {
        rows.push(Row::new(format!("/insights?{query}"), "GET", &format!("/insights?{query}")));
    }
    // The head of such an answer is compared; how far the application is depends on the moment.
    let moment: &[&str] = &["/status", "/applied_generation", "/status_seq", "/postgres"];
    let prefers = ["respond-async", "RESPOND-ASYNC", "wait=3, respond-async"];
    for (generation, prefer) in (3000..).zip(prefers) {
        let fence = fence(own, 2, generation, 'a');
        let asked = push(format!("prefer: {prefer}"), &fence, &spec(prefer)).header("prefer", prefer);
        rows.push(asked.differs(moment));
        // Waits with the first one.
        rows.push(push(format!("after prefer: {prefer}"), &fence, &spec(prefer)));
    }
    rows
}

fn with(pointer: &str, value: Value) -> Value {
    let mut spec = spec("content");
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.to_owned(), value);
    spec
}

fn without(pointer: &str) -> Value {
    let mut spec = spec("content");
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
    spec
}

fn setting(name: &str, value: &str) -> Value {
    with("/cluster/settings", json!([{"name": name, "value": value, "vartype": "string"}]))
}

fn bad_specs() -> Vec<(&'static str, Value)> {
    let role = |role: Value| with("/cluster/roles", json!([role]));
    let database = |database: Value| with("/cluster/databases", json!([database]));
    let twice = json!({"name": "r", "encrypted_password": null, "options": null});
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    vec![
        ("nothing in it", json!({})),
        ("a number for a spec", json!(7)),
        ("null for a spec", Value::Null),
        ("no version", without("/format_version")),
        ("no cluster", without("/cluster")),
        ("no roles", without("/cluster/roles")),
        ("a version that is text", with("/format_version", json!("1.0"))),
        ("NUL in a text", setting("a.b", "x\0y")),
        ("too much depth", with("/deep", deep)),
        ("a negative time", with("/suspend_timeout_seconds", json!(-2))),
        ("no connections", with("/reconfigure_concurrency", json!(0))),
        ("a role without a name", role(json!({"name": "", "encrypted_password": null, "options": null}))),
        ("a role with a long name", role(json!({"name": "r".repeat(64), "encrypted_password": null, "options": null}))),
        ("a password", role(json!({"name": "r", "encrypted_password": "secret", "options": null}))),
        ("a role twice", with("/cluster/roles", json!([twice, twice]))),
        ("a database without an owner", database(json!({"name": "d", "owner": "", "options": null}))),
        ("a database that is a text", database(json!("d"))),
        ("a setting without a name", setting("", "1")),
        ("a setting with a bad name", setting("a b", "1")),
        ("a setting of two lines", setting("a.b", "1\n2")),
        (
            "a setting without a value",
            with("/cluster/settings", json!([{"name": "a.b", "value": null, "vartype": "string"}])),
        ),
        ("a setting that is the agent's own", setting("data_directory", "/")),
        ("another port", setting("port", "1")),
        ("an include", with("/cluster/postgresql_conf", json!("include 'x'"))),
        ("a line that is none", with("/cluster/postgresql_conf", json!("work_mem = 1 2"))),
        ("a setting that PostgreSQL has not", setting("wrok_mem", "4MB")),
        ("a setting that cannot be set", setting("block_size", "8192")),
        ("a setting that PostgreSQL has not, in a text", with("/cluster/postgresql_conf", json!("wrok_mem = 1"))),
        ("a number that is none", setting("work_mem", "much")),
        ("a number below its range", setting("max_connections", "0")),
        ("a number above its range", setting("max_connections", "100000000")),
        ("a unit that there is not", setting("work_mem", "4 lightyears")),
        ("a switch that is none", setting("autovacuum", "maybe")),
        ("a word that is none", setting("wal_level", "much")),
        ("a mode that there is not", with("/mode", json!("Secondary"))),
        ("a static mode", with("/mode", json!({"Static": "0/1"}))),
        ("the mode of a replica", with("/mode", json!("Replica"))),
        ("an object that is none", with("/pgbouncer_settings", json!([]))),
        ("half a page server", with("/tenant_id", json!("x"))),
    ]
}

fn broken_fences(good: &Value) -> Vec<(&'static str, Value)> {
    let with = |field: &str, value: Value| {
        let mut fence = good.clone();
        fence.as_object_mut().unwrap().insert(field.to_owned(), value);
        fence
    };
    let mut without_term = good.clone();
    without_term.as_object_mut().unwrap().remove("term");
    vec![
        ("no fields", json!({})),
        ("no term", without_term),
        ("one field more", with("more", json!(1))),
        ("a term that is text", with("term", json!("1"))),
        ("a broken generation", with("generation", json!(1.5))),
        ("a short hash", with("spec_hash", json!("abc"))),
        ("a hash in capitals", with("spec_hash", json!("A".repeat(64)))),
        ("a cluster that is no id", with("cluster_id", json!("x"))),
        ("a compute that is no id", with("compute_id", json!("a/b"))),
        ("a list", json!([1])),
    ]
}
