//! A replica on stock PostgreSQL: copied from a primary, following it, and promoted. Two real agents.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use serde_json::{Value, json};

use crate::support::{Compute, postgres_program, setting, spec};

const PASSWORD: &str = "re:pl\\ica pw";

async fn primary(program: std::path::PathBuf) -> Compute {
    let primary = Compute::start(program, &[]).await;
    let (code, status) = primary.post("/spec", spec(json!([]), json!([]), json!([])).to_string()).await;
    assert_eq!(code, 200, "{status}");
    let create = format!("CREATE ROLE repl LOGIN REPLICATION PASSWORD E'{}'", PASSWORD.replace('\\', "\\\\"));
    primary.admin(&create).await.unwrap();
    primary.admin("CREATE TABLE t AS SELECT 1 AS x").await.unwrap();
    primary
}

fn replica_spec(primary: &Compute, password: &str) -> Value {
    let mut spec = spec(json!([]), json!([]), json!([setting("work_mem", "8MB")]));
    let more = json!({"mode": "Replica", "primary_slot_name": "first", "primary_password": password,
        "primary_connstring": format!("postgresql://repl@127.0.0.1:{}/postgres", primary.pgport)});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn primary_spec() -> Value {
    spec(json!([{"name": "after", "encrypted_password": null}]), json!([]), json!([setting("work_mem", "16MB")]))
}

async fn sees(compute: &Compute, question: &str, wanted: &str) {
    compute.wait_for(question, async || compute.admin(question).await.is_ok_and(|said| said == wanted)).await;
}

fn fence(generation: u64) -> Value {
    json!({"cluster_id": "11111111-1111-4111-8111-111111111111", "compute_id": "no-compute",
        "term": 1, "generation": generation, "spec_hash": format!("{generation:064x}")})
}

async fn promote(compute: &Compute, spec: &Value, lsn: &Value, fence: Option<Value>) -> (u16, Value) {
    let body = json!({"spec": spec, "wal_flush_lsn": lsn, "fence": fence});
    compute.post("/promote", body.to_string()).await
}

#[tokio::test]
async fn a_replica_is_made_follows_and_is_promoted() {
    let Some(program) = postgres_program() else { return };
    let first = primary(program.clone()).await;
    let mut second = Compute::start(program, &[]).await;

    // The primary refuses: it is said, tried again, and nothing lies where the data will be.
    let (code, error) = second.configure(&replica_spec(&first, "wrong"), Some(fence(1))).await;
    assert_eq!(code, 500, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("password authentication failed"), "{error}");
    assert_eq!(second.status().await["error_detail"]["phase"], "storage");
    assert!(!second.pgdata().exists());

    let (code, status) = second.configure(&replica_spec(&first, PASSWORD), Some(fence(2))).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    sees(&second, "SELECT x FROM t", "1").await;
    assert_eq!(second.admin("SELECT pg_is_in_recovery()::text").await.unwrap(), "true");
    assert_eq!(second.admin("SHOW work_mem").await.unwrap(), "8MB");
    first.admin("INSERT INTO t VALUES (2)").await.unwrap();
    sees(&second, "SELECT max(x) FROM t", "2").await;
    let slot = "SELECT active::text FROM pg_replication_slots WHERE slot_name = 'first'";
    sees(&first, slot, "true").await;
    assert_eq!(first.admin("SELECT application_name FROM pg_stat_replication").await.unwrap(), "no-compute");

    // Nobody may read the password, whichever way they look.
    assert_eq!(second.admin("SHOW primary_conninfo").await.unwrap().matches("pw").count(), 0);
    for text in [second.agent_log(), second.postgres_log(), second.status().await.to_string()] {
        assert!(!text.contains("ica pw"), "{text}");
    }

    // A plan knows what a replica needs, and what does not go with it.
    let (code, plan) = second.post("/plan", replica_spec(&first, PASSWORD).to_string()).await;
    assert_eq!((code, &plan["verdict"]), (200, &json!("no_op")), "{plan}");
    let (code, plan) = second.post("/plan", primary_spec().to_string()).await;
    assert_eq!((code, &plan["refusal"]["path"]), (200, &json!("mode")), "{plan}");

    // A mode that does not go with the directory is refused, and nothing is wiped.
    let (code, error) = second.configure(&primary_spec(), Some(fence(3))).await;
    assert_eq!((code, &error["path"]), (422, &json!("spec.mode")), "{error}");
    let (code, error) = first.configure(&replica_spec(&first, PASSWORD), None).await;
    assert_eq!((code, &error["path"]), (422, &json!("spec.mode")), "{error}");
    let (code, error) = promote(&first, &primary_spec(), &json!("0/1"), None).await;
    assert_eq!((code, &error["code"]), (412, &json!("invalid_state")), "{error}");

    // It goes on after both kinds of restart.
    for signal in ["TERM", "KILL"] {
        second.signal_agent(signal);
        second.agent_ended().await;
        second.start_agent(&[]).await;
        second.until("running again", |s| s["status"] == "running").await;
        first.admin("INSERT INTO t SELECT max(x) + 1 FROM t").await.unwrap();
        sees(&second, "SELECT max(x) FROM t", &first.admin("SELECT max(x) FROM t").await.unwrap()).await;
    }

    // The position will never come: it fails, goes on following, and can be asked for again.
    let (code, state) = promote(&second, &primary_spec(), &json!("7F/0"), Some(fence(4))).await;
    assert_eq!((code, &state["status"]), (500, &json!("failed")), "{state}");
    assert!(state["error"].as_str().unwrap().contains("of 7F/0"), "{state}");
    let status = second.status().await;
    assert_eq!((&status["status"], &status["rejected_generation"]), (&json!("failed"), &json!(4)), "{status}");
    first.admin("INSERT INTO t VALUES (1000)").await.unwrap();
    sees(&second, "SELECT max(x) FROM t", "1000").await;

    // The hand-over: the old one says where its log ends, the new one waits for that. An old fence is refused.
    let (code, ended) = first.post("/terminate?mode=immediate", "").await;
    assert_eq!(code, 200);
    assert_eq!(promote(&second, &primary_spec(), &ended["lsn"], Some(fence(2))).await.0, 409);
    let (code, state) = promote(&second, &primary_spec(), &ended["lsn"], Some(fence(4))).await;
    assert_eq!((code, &state["status"]), (200, &json!("completed")), "{state}");
    for time in ["lsn_wait_time_ms", "pg_promote_time_ms", "reconfigure_time_ms"] {
        assert!(state[time].is_u64(), "{state}");
    }
    println!("promoted: {state}");
    let again = promote(&second, &primary_spec(), &ended["lsn"], Some(fence(4))).await;
    assert_eq!((again.0, &again.1["status"]), (200, &json!("completed")), "{again:?}");
    assert!(!second.pgdata().join("standby.signal").exists());
    assert!(!second.dir.0.join("d.pgfleet/primary.pass").exists());
    second.admin("INSERT INTO t VALUES (2000)").await.unwrap();
    assert_eq!(second.admin("SELECT count(*) FROM pg_roles WHERE rolname = 'after'").await.unwrap(), "1");
    assert_eq!(
        second.admin("SELECT current_setting('work_mem') || current_setting('primary_conninfo')").await.unwrap(),
        "16MB"
    );

    // It stays one.
    second.signal_agent("TERM");
    second.agent_ended().await;
    second.start_agent(&[]).await;
    let status = second.until("running again", |s| s["status"] == "running").await;
    assert_eq!((&status["generation"], &status["applied_generation"]), (&json!(4), &json!(4)));
    second.admin("INSERT INTO t VALUES (3000)").await.unwrap();
}

#[tokio::test]
async fn an_interrupted_promotion_is_not_done_by_a_later_agent() {
    let Some(program) = postgres_program() else { return };
    let first = primary(program.clone()).await;
    let mut second = Compute::start(program, &[]).await;
    let (code, status) = second.configure(&replica_spec(&first, PASSWORD), Some(fence(1))).await;
    assert_eq!(code, 200, "{status}");
    let waiting = async {
        let body = json!({"spec": primary_spec(), "wal_flush_lsn": "7F/0", "fence": fence(2)});
        let request = second.request(reqwest::Method::POST, "/promote?timeout_s=0").body(body.to_string());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(waiting.await, 202);
    second.until("under way", |s| s["status"] == "configuration").await;
    second.signal_agent("KILL");
    second.agent_ended().await;

    second.start_agent(&[]).await;
    let status = second.until("running", |s| s["status"] == "running").await;
    assert_eq!((&status["applied_generation"], &status["rejected_generation"]), (&json!(1), &json!(2)), "{status}");
    assert_eq!(second.admin("SELECT pg_is_in_recovery()::text").await.unwrap(), "true");
    // An operator asks for it again, under the same fence.
    let lsn = json!(first.admin("SELECT pg_current_wal_lsn()").await.unwrap());
    let (code, state) = promote(&second, &primary_spec(), &lsn, Some(fence(2))).await;
    assert_eq!((code, &state["status"]), (200, &json!("completed")), "{state}");
}
