//! What specs do and which are refused, on a real PostgreSQL.

mod support;

use serde_json::{Value, json};
use support::{Compute, SCRAM_PW1, alice, kill, postgres_program, setting, spec};

const CLUSTER: &str = "11111111-1111-4111-8111-111111111111";

fn fence(term: i64, generation: i64, content: char) -> Value {
    json!({"cluster_id": CLUSTER, "compute_id": "no-compute", "term": term, "generation": generation,
        "spec_hash": content.to_string().repeat(64)})
}

fn empty() -> Value {
    spec(json!([]), json!([]), json!([]))
}

#[tokio::test]
async fn a_higher_term_is_kept_even_when_the_spec_cannot_be_judged() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let (code, status) = compute.configure(&empty(), Some(fence(5, 7, 'a'))).await;
    assert_eq!(code, 200, "{status}");
    // A file where the agent's scratch directory was: the server program cannot be asked.
    let check = compute.pgdata().with_extension("pgfleet").join("check");
    std::fs::remove_dir_all(&check).unwrap();
    std::fs::write(&check, "").unwrap();
    let other = spec(json!([]), json!([]), json!([setting("work_mem", "5MB")]));
    let (code, body) = compute.configure(&other, Some(fence(6, 8, 'b'))).await;
    assert_eq!(code, 500, "{body}");
    std::fs::remove_file(&check).unwrap();
    let (code, body) = compute.configure(&empty(), Some(fence(5, 9, 'c'))).await;
    assert_eq!((code, &body["code"], &body["highest"]["term"]), (409, &json!("stale_term"), &json!(6)), "{body}");
    let (code, body) = compute.configure(&other, Some(fence(6, 8, 'b'))).await;
    assert_eq!(code, 200, "what could not be judged is taken when it is sent again: {body}");
}

#[tokio::test]
async fn what_lies_at_the_workplace_of_initdb_is_removed_only_with_our_marker() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::prepare(program);
    let workplace = compute.pgdata().with_extension("pgfleet-new");
    std::fs::create_dir(&workplace).unwrap();
    let precious = workplace.join("precious");
    std::fs::write(&precious, "x").unwrap();
    compute.start_agent(&[]).await;
    let (code, body) = compute.post("/spec?timeout_s=1", empty().to_string()).await;
    assert_ne!(code, 200, "{body}");
    compute.until("refused", |s| s["error"].as_str().is_some_and(|error| error.contains("pgfleet-new"))).await;
    assert!(precious.exists(), "somebody else's data was deleted");
    std::fs::remove_dir_all(&workplace).unwrap();
    compute.until("running", |s| s["status"] == "running").await;
    assert!(!workplace.exists(), "the workplace is left behind");
}

#[tokio::test]
async fn the_rule_of_the_ledger_survives_a_restart() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &[]).await;
    let (code, status) = compute.configure(&empty(), Some(fence(5, 7, 'a'))).await;
    assert_eq!((code, &status["applied_generation"], &status["term"]), (200, &json!(7), &json!(5)), "{status}");
    compute.signal_agent("KILL");
    compute.agent_ended().await;
    compute.start_agent(&[]).await;
    compute.until("running", |s| s["status"] == "running" && s["applied_generation"] == 7).await;

    let other = |key: &str, value: &str| {
        let mut fence = fence(9, 9, 'd');
        fence[key] = json!(value);
        fence
    };
    let rows = [
        (Some(fence(4, 9, 'b')), 409, "stale_term", json!(5)),
        (Some(fence(5, 6, 'b')), 409, "stale_generation", json!(5)),
        (Some(fence(5, 7, 'b')), 409, "fence_conflict", json!(5)),
        // A higher term is kept although its generation is refused.
        (Some(fence(6, 6, 'b')), 409, "stale_generation", json!(6)),
        (Some(fence(5, 9, 'b')), 409, "stale_term", json!(6)),
        (Some(other("cluster_id", "21111111-1111-4111-8111-111111111111")), 409, "foreign_cluster", Value::Null),
        (Some(other("compute_id", "other")), 421, "wrong_compute", Value::Null),
        (None, 409, "fence_required", json!(6)),
    ];
    for (fence, want, reason, highest) in rows {
        let (code, error) = compute.configure(&empty(), fence).await;
        assert_eq!((code, &error["code"]), (want, &json!(reason)), "{error}");
        assert_eq!(error["error"], error["msg"]);
        assert_eq!(error["highest"]["term"], highest, "{error}");
    }
    let before = compute.published().await;
    assert_eq!(before["term"], 6);
    let (code, status) = compute.configure(&empty(), Some(fence(6, 7, 'a'))).await;
    assert_eq!((code, status), (200, before), "the same generation and content did something");

    let (code, status) =
        compute.post("/configure?timeout_s=0", json!({"spec": empty(), "fence": fence(6, 8, 'c')}).to_string()).await;
    assert_eq!((code, &status["generation"]), (202, &json!(8)), "{status}");
    compute.until("applied", |s| s["applied_generation"] == 8 && s["status"] == "running").await;
}

#[tokio::test]
async fn refusals_change_nothing_and_name_their_place() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let with = |settings: Value| spec(json!([]), json!([]), settings).to_string();
    let rows = [
        ("/spec", "{\"a\": oops}".to_owned(), 400, "not_json", Value::Null),
        ("/spec", " ".repeat(4 * 1024 * 1024 + 1), 413, "payload_too_large", Value::Null),
        ("/spec", json!({"format_version": 1.0}).to_string(), 422, "invalid_body", json!(".")),
        ("/spec", with(json!([setting("wrok_mem", "1MB")])), 422, "invalid_body", json!("cluster.settings[0]")),
        (
            "/spec",
            with(json!([setting("a.b", "1"), setting("work_mem", "x")])),
            422,
            "invalid_body",
            json!("cluster.settings[1]"),
        ),
        ("/spec", with(json!([setting("block_size", "1")])), 422, "invalid_body", json!("cluster.settings[0]")),
        ("/spec", with(json!([setting("port", "1")])), 422, "invalid_body", json!("cluster.settings[0]")),
        ("/configure", json!({"fence": null}).to_string(), 422, "invalid_body", json!(".")),
        ("/configure?timeout_s=soon", json!({"spec": {}}).to_string(), 400, "invalid_request", json!("timeout_s")),
        ("/nowhere", String::new(), 404, "unknown_route", Value::Null),
        ("/status", String::new(), 405, "method_not_allowed", Value::Null),
    ];
    for (path, body, code, reason, place) in rows {
        let (got, error) = compute.post(path, body).await;
        assert_eq!((got, &error["code"]), (code, &json!(reason)), "{path} {error}");
        assert_eq!(error["path"], place, "{path} {error}");
        assert_eq!(error["error"], error["msg"]);
    }
    let status = compute.status().await;
    assert_eq!((&status["status"], &status["status_seq"]), (&json!("empty"), &json!(1)));
    assert!(!compute.pgdata().exists());
}

#[tokio::test]
async fn one_bad_object_stops_no_other_and_no_verifier_is_logged() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let loud = json!([setting("log_statement", "all"), setting("log_min_duration_statement", "0")]);
    let roles = json!([{"name": "pg_reserved", "encrypted_password": SCRAM_PW1}, alice()]);
    let databases = json!([{"name": "lost", "owner": "nobody"}, {"name": "orders", "owner": "alice"}]);
    let (code, error) = compute.configure(&spec(roles, databases, loud.clone()), Some(fence(1, 1, 'a'))).await;
    assert_eq!((code, &error["code"]), (500, &json!("apply_failed")), "{error}");
    let status = compute.status().await;
    assert_eq!((&status["status"], &status["rejected_generation"]), (&json!("failed"), &json!(1)));
    let detail = &status["error_detail"];
    assert_eq!(
        (&detail["phase"], &detail["object"], &detail["sqlstate"]),
        (&json!("roles"), &json!("pg_reserved"), &json!("42939"))
    );
    assert_eq!(compute.ask("alice", "pw1", "orders", "SELECT 'in'").await.unwrap(), "in");

    // A new spec leads out of it; a changed password and owner are taken, and nothing is dropped.
    let roles =
        json!([{"name": "alice", "encrypted_password": null}, {"name": "bob", "encrypted_password": SCRAM_PW1}]);
    let (code, status) = compute
        .configure(&spec(roles, json!([{"name": "orders", "owner": "bob"}]), loud), Some(fence(1, 2, 'b')))
        .await;
    assert_eq!((code, &status["status"], &status["error"]), (200, &json!("running"), &Value::Null), "{status}");
    assert!(compute.ask("alice", "pw1", "orders", "SELECT 'in'").await.is_err());
    let owner = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'orders'";
    assert_eq!(compute.ask("bob", "pw1", "orders", owner).await.unwrap(), "bob");

    assert!(compute.postgres_log().contains("SELECT pg_get_userbyid"), "the log was not loud");
    for log in [compute.postgres_log(), compute.agent_log(), compute.get("/metrics").await.1.to_string()] {
        assert!(!log.contains("SCRAM-SHA-256$"), "a verifier was logged");
    }
}

#[tokio::test]
async fn settings_by_reload_restart_and_back() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    // A first configuration that PostgreSQL does not start with: it runs without it, and the spec has failed.
    let bad = json!([setting("shared_preload_libraries", "no_such_library")]);
    let (code, error) = compute.configure(&spec(json!([]), json!([]), bad.clone()), Some(fence(1, 1, 'a'))).await;
    assert_eq!(code, 500, "{error}");
    let status = compute.status().await;
    assert_eq!((&status["status"], &status["error_detail"]["phase"]), (&json!("failed"), &json!("start")), "{status}");
    assert!(status["postgres"]["pid"].is_number());

    let some = |more: Value| {
        let mut settings = vec![setting("work_mem", "7MB"), setting("my.text", "it's a \\ 'path'")];
        settings.extend(more.as_array().unwrap().iter().cloned());
        spec(json!([alice()]), json!([]), json!(settings))
    };
    let (code, status) = compute.configure(&some(json!([])), Some(fence(1, 2, 'b'))).await;
    assert_eq!((code, &status["pending_restart"]), (200, &json!([])), "{status}");
    let asked = "SELECT current_setting('work_mem') || current_setting('my.text')";
    assert_eq!(compute.ask("alice", "pw1", "postgres", asked).await.unwrap(), "7MBit's a \\ 'path'");

    let (code, status) =
        compute.configure(&some(json!([setting("max_connections", "33")])), Some(fence(1, 3, 'c'))).await;
    assert_eq!((code, &status["pending_restart"]), (200, &json!(["max_connections"])), "{status}");
    let (_, status) = compute.configure(&some(json!([])), Some(fence(1, 4, 'd'))).await;
    assert_eq!(status["pending_restart"], json!([]), "it is as before and still waits");

    // One that only a start can judge: it waits, and a crash shows that it is bad; the last good one comes back.
    let (code, status) = compute.configure(&some(bad), Some(fence(1, 5, 'e'))).await;
    assert_eq!((code, &status["pending_restart"]), (200, &json!(["shared_preload_libraries"])), "{status}");
    kill(compute.postmaster().unwrap(), "KILL");
    let status = compute.until("rolled back", |s| s["status"] == "failed").await;
    let generations = (&status["rejected_generation"], &status["applied_generation"]);
    assert_eq!((generations, &status["pending_restart"]), ((&json!(5), &json!(4)), &json!([])), "{status}");
    assert_eq!(compute.ask("alice", "pw1", "postgres", asked).await.unwrap(), "7MBit's a \\ 'path'");
}

#[tokio::test]
async fn the_last_of_those_that_wait_is_applied() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let body =
        |generation: i64, content: char| json!({"spec": empty(), "fence": fence(1, generation, content)}).to_string();
    // The first one makes the data directory, which takes a while.
    let (code, _) = compute.post("/configure?timeout_s=0", body(1, 'a')).await;
    assert_eq!(code, 202);
    let (second, third) = tokio::join!(compute.post("/configure", body(2, 'b')), async {
        compute.until("has the second", |s| s["generation"] == 2).await;
        compute.post("/configure", body(3, 'c')).await
    });
    assert_eq!((second.0, &second.1["generation"]), (202, &json!(3)), "{second:?}");
    assert_eq!((third.0, &third.1["applied_generation"]), (200, &json!(3)), "{third:?}");
    let (_, page) = compute.get("/metrics").await;
    assert!(page.as_str().unwrap().contains("configures_total{outcome=\"superseded\"} 1"), "{page}");
}

#[tokio::test]
async fn the_ledger_is_durable_before_anything_is_done() {
    let Some(program) = postgres_program() else { return };
    for (point, kept) in [("agent_before_fsync", false), ("agent_after_rename", true)] {
        let mut compute = Compute::prepare(program.clone());
        compute.environment = vec![("PGFLEET_PAUSE_AT", point)];
        compute.start_agent(&["--dev"]).await;
        let wanted = empty();
        let request = compute.configure(&wanted, Some(fence(1, 1, 'a')));
        let paused = async {
            let line = format!("pgfleet: paused at {point} pid ");
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while !compute.agent_log().contains(&line) {
                assert!(std::time::Instant::now() < deadline, "never {line}");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            answer = request => panic!("answered before it was durable: {answer:?}"),
            () = paused => {}
        }
        assert!(!compute.pgdata().exists(), "something was done before it was durable");
        compute.signal_agent("KILL");
        compute.agent_ended().await;
        compute.environment.clear();
        compute.start_agent(&[]).await;
        if kept {
            compute
                .until("applied from the ledger", |s| s["status"] == "running" && s["applied_generation"] == 1)
                .await;
        } else {
            assert_eq!(compute.status().await["status"], "empty");
        }
    }
}
