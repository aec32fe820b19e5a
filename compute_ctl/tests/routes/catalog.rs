//! What PostgreSQL holds, how it has been, and which route is where.

use serde_json::{Value, json};

use super::{internal, running, superuser};
use crate::support::{Compute, SCRAM_PW1, postgres_program};

/// Keys of everything in a list, by name.
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|object| object["name"] == name).unwrap()
}

#[tokio::test]
async fn roles_databases_insights_and_timings() {
    let Some(program) = postgres_program() else { return };
    let compute = running(program, &[]).await;

    let (code, objects) = compute.get("/dbs_and_roles").await;
    assert_eq!(code, 200);
    assert_eq!(named(&objects["roles"], "alice"), &json!({"name": "alice", "options": null}));
    assert_eq!(named(&objects["databases"], "orders")["owner"], "alice");
    assert_eq!(named(&objects["databases"], "template0")["restrict_conn"], true);
    assert!(!objects.to_string().contains("SCRAM-SHA-256"), "without keys nobody is an administrator");

    // Statements of the superuser are not shown; a utility statement's password is not either.
    let admin = superuser(&compute, "postgres").await;
    admin.batch_execute("DROP EXTENSION pg_stat_statements").await.unwrap();
    let (code, text) = compute.get("/insights").await;
    assert_eq!((code, text), (200, json!(r#"{"pg_stat_statements":[]}"#)), "no extension");
    admin
        .batch_execute(
            "CREATE EXTENSION pg_stat_statements; CREATE ROLE bob LOGIN PASSWORD 'pw2'; SELECT 'of the superuser'",
        )
        .await
        .unwrap();
    let slow = "SELECT pg_sleep(0.05)::text";
    compute.ask("alice", "pw1", "postgres", slow).await.unwrap();
    // A role of a spec may replicate, and PostgreSQL 15 lets only superusers alter such a one.
    let secret = format!("ALTER ROLE bob PASSWORD '{SCRAM_PW1}'");
    let none = compute.ask("bob", "pw2", "postgres", &secret).await.unwrap_err();
    assert!(none.as_db_error().is_none(), "it answers no row: {none:?}");
    let (code, document) = compute.get("/insights?format=object").await;
    assert_eq!(code, 200);
    let shown = document["pg_stat_statements"].as_array().unwrap();
    assert!(shown[0]["query"].as_str().unwrap().contains("pg_sleep"), "the slowest first: {document}");
    let (code, text) = compute.get("/insights").await;
    assert_eq!(code, 200);
    let twice: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert_eq!(twice["pg_stat_statements"].as_array().unwrap().len(), shown.len());
    let all = twice.to_string();
    assert!(all.contains("ALTER ROLE bob PASSWORD '<redacted>'") && !all.contains("SCRAM-SHA-256"), "{all}");
    assert!(!all.contains("of the superuser") && !all.contains("CREATE EXTENSION"), "{all}");

    let (code, timings) = compute.get("/metrics.json").await;
    assert_eq!(code, 200);
    let timings = timings.as_object().unwrap();
    assert_eq!(timings.len(), 13);
    for (name, value) in timings {
        let done = ["wait_for_spec_ms", "start_postgres_ms", "config_ms", "total_startup_ms"].contains(&name.as_str());
        assert_eq!(value.as_u64().unwrap() > 0, done, "{name}: {value}");
    }
    assert!(timings["total_startup_ms"].as_u64() >= timings["start_postgres_ms"].as_u64());
}

#[tokio::test]
async fn every_route_is_on_its_server_and_waits_for_its_state() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let empty = json!("invalid compute status: empty");
    for (method, path) in [("POST", "/check_writability"), ("GET", "/insights")] {
        let request = compute.request(method.parse().unwrap(), path);
        let response = request.header("x-request-id", "mine").send().await.unwrap();
        assert_eq!(response.headers()["x-request-id"], "mine");
        assert_eq!(response.status().as_u16(), 412, "{path}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"], empty, "{path}");
    }
    let grant = json!({"database": "d", "schema": "s", "privileges": ["USAGE"], "role": "r"});
    let extension = json!({"database": "d", "extension": "e", "version": "1"});
    for (path, body) in [("/extensions", &extension), ("/grants", &grant)] {
        let (code, said) = internal(&compute, reqwest::Method::POST, path, body.clone()).await;
        assert_eq!((code, &said["error"]), (412, &empty), "{path}");
        assert_eq!(compute.post(path, body.to_string()).await.0, 404, "{path} is not for the outside");
        assert_eq!(internal(&compute, reqwest::Method::GET, path, Value::Null).await.0, 405, "{path}");
    }
    let (code, said) = internal(&compute, reqwest::Method::POST, "/extension_server/a/b.so", Value::Null).await;
    assert_eq!((code, &said["code"]), (412, &json!("invalid_state")));
    for path in ["/status", "/configure", "/terminate", "/dbs_and_roles", "/database_schema", "/insights"] {
        let (code, said) = internal(&compute, reqwest::Method::GET, path, Value::Null).await;
        assert_eq!((code, &said["code"]), (404, &json!("unknown_route")), "{path} is not for the inside");
    }
    assert_eq!(internal(&compute, reqwest::Method::GET, "/metrics", Value::Null).await.0, 200);
    // There is no PostgreSQL to ask.
    for path in ["/dbs_and_roles", "/database_schema?database=postgres"] {
        let (code, said) = compute.get(path).await;
        assert_eq!((code, &said["code"]), (503, &json!("database_away")), "{path}: {said}");
    }
    assert_eq!(compute.get("/metrics.json").await.1["total_startup_ms"], 0);
}
