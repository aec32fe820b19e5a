//! `/terminate` from every state and what it says, and signals.

use std::time::{Duration, Instant};

use pgfleet_api::Lsn;
use serde_json::{Value, json};

use crate::support::{Compute, kill, lives, postgres_program, spec};

fn empty_spec() -> String {
    spec(json!([]), json!([]), json!([])).to_string()
}

fn lsn(answer: &Value) -> Option<Lsn> {
    answer["lsn"].as_str()?.parse().ok()
}

#[tokio::test]
async fn the_end_says_where_the_log_ends() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &[]).await;
    assert_eq!(compute.post("/spec", empty_spec()).await.0, 200);
    compute.admin("CREATE TABLE t AS SELECT generate_series(1, 1000)").await.unwrap();
    let written: Lsn = compute.admin("SELECT pg_current_wal_lsn()").await.unwrap().parse().unwrap();
    let (code, answer) = compute.post("/terminate?mode=fast", "").await;
    assert_eq!(code, 200);
    assert!(lsn(&answer).unwrap() >= written, "{answer} is before {written}");
    // It is asked again, and by somebody in a hurry.
    assert_eq!(compute.post("/terminate?mode=fast", "").await, (201, answer.clone()));
    assert_eq!(compute.post("/terminate?mode=immediate", "").await, (201, answer.clone()));
    assert_eq!(compute.agent_ended().await.code(), Some(0));

    // It comes back; what was not stopped cleanly has no position to tell.
    compute.start_agent(&["--restart-postgres", "never"]).await;
    compute.until("running", |s| s["status"] == "running").await;
    assert_eq!(compute.admin("SELECT count(*) FROM t").await.unwrap(), "1000");
    kill(compute.postmaster().unwrap(), "KILL");
    let status = compute.until("failed", |s| s["status"] == "failed").await;
    assert!(status["error"].as_str().unwrap().contains("signal: 9"), "{status}");
    assert_eq!(compute.post("/terminate?mode=immediate", "").await, (200, json!({"lsn": null})));
    assert_eq!(compute.agent_ended().await.code(), Some(0));
}

#[tokio::test]
async fn it_ends_from_every_state() {
    let Some(program) = postgres_program() else { return };
    // While it is being made for the first time.
    let mut compute = Compute::prepare(program);
    std::fs::write(compute.dir.0.join("s.json"), empty_spec()).unwrap();
    compute.start_agent(&["-S", "s.json"]).await;
    compute.until("being made", |s| s["status"] == "init").await;
    assert_eq!(compute.post("/terminate?mode=immediate", "").await, (200, json!({"lsn": null})));
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    assert!(!compute.pgdata().exists(), "a directory that is not whole was put in place");

    // Failed, because somebody has the port: the directory was made and holds a position.
    let thief = std::net::TcpListener::bind(("127.0.0.1", compute.pgport)).unwrap();
    compute.start_agent(&[]).await;
    compute.until("failed", |s| s["status"] == "failed").await;
    let (code, answer) = compute.post("/terminate?mode=immediate", "").await;
    assert_eq!((code, lsn(&answer).is_some()), (200, true), "{answer}");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    drop(thief);

    // While a spec is being applied that cannot be applied before this session goes.
    compute.start_agent(&[]).await;
    compute.until("running", |s| s["status"] == "running").await;
    let in_the_way = compute.superuser("template1").await.unwrap();
    let wanted = spec(json!([]), json!([{"name": "slow", "owner": "cloud_admin"}]), json!([]));
    let request = compute.request(reqwest::Method::POST, "/spec?timeout_s=0").body(wanted.to_string());
    assert_eq!(request.send().await.unwrap().status().as_u16(), 202);
    assert_eq!(compute.status().await["status"], "configuration");
    let (code, answer) = compute.post("/terminate?mode=immediate", "").await;
    assert_eq!((code, lsn(&answer).is_some()), (200, true), "{answer}");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    assert!(in_the_way.is_closed());
}

#[tokio::test]
async fn signals_stop_postgresql_first() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &["--pg-stop-timeout", "1"]).await;
    assert_eq!(compute.post("/spec", empty_spec()).await.0, 200);
    for signal in ["QUIT", "INT", "TERM"] {
        let postmaster = compute.postmaster().unwrap();
        compute.signal_agent(signal);
        assert_eq!(compute.agent_ended().await.code(), Some(0), "SIG{signal}");
        assert!(!lives(postmaster));
        assert!(!compute.pgdata().join("postmaster.pid").exists(), "SIG{signal} was no clean stop");
        compute.start_agent(&["--pg-stop-timeout", "1"]).await;
        compute.until("running", |s| s["status"] == "running").await;
    }

    // The second signal does not wait for a server that hangs.
    let postmaster = compute.postmaster().unwrap();
    kill(postmaster, "STOP");
    compute.signal_agent("TERM");
    let deadline = Instant::now() + Duration::from_secs(10);
    let heard = |compute: &Compute| compute.agent_log().matches("ending in order; a second").count();
    while heard(&compute) < 4 {
        assert!(Instant::now() < deadline, "the agent did not hear the signal");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(1));
    kill(postmaster, "CONT");

    // One that does not even hear is killed in the end, with all that it left.
    compute.start_agent(&["--pg-stop-timeout", "1"]).await;
    compute.until("running", |s| s["status"] == "running").await;
    let postmaster = compute.postmaster().unwrap();
    kill(postmaster, "STOP");
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    assert!(!lives(postmaster));
    assert!(compute.agent_log().contains("PostgreSQL is killed"));
    compute.start_agent(&[]).await;
    compute.until("running after that", |s| s["status"] == "running").await;
}
