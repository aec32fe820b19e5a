//! Starts from a base backup, each a fresh one.

use serde_json::{Value, json};

use super::world::{TENANT, TIMELINE, World, add, backup, words};
use crate::support::{Compute, kill, lives, postgres_program};

fn running_with_another(dead: u32) -> impl Fn(&Value) -> bool {
    move |status| status["status"] == "running" && status["postgres"]["pid"] != dead
}

#[tokio::test]
async fn every_start_is_a_fresh_start() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let mut compute = Compute::start(program, &[]).await;
    let (code, status) = compute.post("/spec", world.spec().to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    assert_eq!(words(&compute).await, "from the backup");
    let line =
        format!("no_user compute_ctl -c neon.compute_mode=primary | basebackup {TENANT} {TIMELINE} 0/ABCDEF0 --gzip");
    assert_eq!(world.page_server.seen(), [line]);
    let asked = format!("no_user compute_ctl -c timeline_id={TIMELINE} tenant_id={TENANT} | TIMELINE_STATUS");
    assert_eq!(world.safekeepers[0].seen(), [asked]);
    let marker: Value = serde_json::from_slice(&std::fs::read(compute.pgdata().join("pgfleet.json")).unwrap()).unwrap();
    assert_eq!((&marker["disposable"], &marker["built_from"]["timeline_id"]), (&json!(true), &json!(TIMELINE)));
    let shown = "SELECT current_setting('neon.timeline_id') || current_setting('neon.compute_mode')";
    assert_eq!(compute.ask("alice", "pw1", "orders", shown).await.unwrap(), format!("{TIMELINE}primary"));

    let (_, timings) = compute.get("/metrics.json").await;
    for name in ["pageserver_connect_micros", "basebackup_ms", "basebackup_bytes", "start_postgres_ms"] {
        assert!(timings[name].as_u64() > Some(0), "{name}: {timings}");
    }

    // A new spec for the running server builds nothing.
    add(&compute, "new").await;
    let mut changed = world.spec();
    changed["cluster"]["settings"] = json!([{"name": "work_mem", "value": "8MB", "vartype": "string"}]);
    assert_eq!(compute.post("/spec", changed.to_string()).await.0, 200);
    assert_eq!(words(&compute).await, "from the backup,new");

    // Neither does an agent that finds its server running.
    let first = compute.postmaster().unwrap();
    compute.signal_agent("KILL");
    compute.agent_ended().await;
    compute.start_agent(&[]).await;
    compute.until("running again", |s| s["status"] == "running").await;
    assert_eq!((compute.postmaster(), world.commands().len()), (Some(first), 1));
    assert_eq!(words(&compute).await, "from the backup,new");

    // A crash of the server and a restart of the agent do.
    kill(first, "KILL");
    compute.until("running after a crash", running_with_another(first)).await;
    assert_eq!((words(&compute).await.as_str(), world.commands().len()), ("from the backup", 2));
    add(&compute, "newer").await;
    let second = compute.postmaster().unwrap();
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    assert!(!lives(second));
    compute.start_agent(&[]).await;
    compute.until("running from the ledger", |s| s["status"] == "running").await;
    assert_eq!((words(&compute).await.as_str(), world.commands().len()), ("from the backup", 3));
    assert_eq!(compute.ask("alice", "pw1", "orders", "SELECT current_setting('work_mem')").await.unwrap(), "8MB");
    let page = compute.get("/metrics").await.1;
    let page = page.as_str().unwrap();
    assert!(page.contains("compute_ctl_storage_basebackups_total{outcome=\"done\"} 1"), "{page}");
    assert!(!compute.dir.0.join("d.pgfleet-new").exists());
}

#[tokio::test]
async fn another_timeline_waits_for_a_restart() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let compute = Compute::start(program, &[]).await;
    assert_eq!(compute.post("/spec", world.spec().to_string()).await.0, 200);
    add(&compute, "old timeline").await;
    let mut branched = world.spec();
    branched["timeline_id"] = json!("ff".repeat(16));
    let (code, status) = compute.post("/spec", branched.to_string()).await;
    assert_eq!((code, &status["pending_restart"]), (200, &json!(["neon.timeline_id"])), "{status}");
    assert_eq!(words(&compute).await, "from the backup,old timeline");
    branched["restart_policy"] = json!("now");
    let (code, status) = compute.post("/spec", branched.to_string()).await;
    assert_eq!((code, &status["pending_restart"]), (200, &json!([])), "{status}");
    assert_eq!(words(&compute).await, "from the backup");
    assert!(world.commands()[1].contains(&"ff".repeat(16)), "{:?}", world.commands());
}

#[tokio::test]
async fn a_replica_takes_the_newest_and_follows() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let compute = Compute::start(program, &[]).await;
    let mut replica = world.spec();
    replica["mode"] = json!("Replica");
    let (code, status) = compute.post("/spec", replica.to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    assert_eq!(compute.ask("alice", "pw1", "orders", "SELECT pg_is_in_recovery()::text").await.unwrap(), "true");
    assert_eq!(words(&compute).await, "from the backup");
    assert_eq!(world.commands(), [format!("basebackup {TENANT} {TIMELINE} --gzip --replica")]);
    assert!(world.safekeepers.iter().all(|one| one.seen().is_empty()), "a replica must not disturb the primary");
}

#[tokio::test]
async fn a_static_compute_shows_its_moment_and_keeps_it_leased() {
    let Some(program) = postgres_program() else { return };
    let backup = backup(&program).await;
    let world = World::start(&backup).await;
    let in_a_while = chrono::Utc::now().timestamp_millis() + 12_000;
    *world.page_server.state.lease.lock().unwrap() = Some(in_a_while);
    let compute = Compute::start(program, &[]).await;
    let mut fixed = world.spec();
    fixed["mode"] = json!({"Static": backup.end});
    let (code, status) = compute.post("/spec", fixed.to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    let shown = "SELECT pg_is_in_recovery()::text || current_setting('recovery_target_lsn')";
    assert_eq!(compute.ask("alice", "pw1", "orders", shown).await.unwrap(), format!("true{}", backup.end));
    assert_eq!(words(&compute).await, "from the backup");
    let base_backup = format!("basebackup {TENANT} {TIMELINE} {} --gzip --replica", backup.end);
    let lease = format!("lease lsn {TENANT} {TIMELINE} {}", backup.end);
    let count = |wanted: &str| world.commands().iter().filter(|command| *command == wanted).count();
    assert_eq!(count(&base_backup), 1, "{:?}", world.commands());
    // At half-time it is renewed.
    compute.until("a renewed lease", |_| count(&lease) >= 2).await;
}
