//! Which directories are built anew, and which never.

use serde_json::{Value, json};

use super::world::{World, add, backup, words};
use crate::support::{Compute, alice, postgres_program, spec};

fn stock() -> Value {
    spec(json!([alice()]), json!([{"name": "orders", "owner": "alice"}]), json!([]))
}

#[tokio::test]
async fn local_data_is_never_replaced() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let mut compute = Compute::start(program, &[]).await;
    assert_eq!(compute.post("/spec", stock().to_string()).await.0, 200);
    let made = "CREATE TABLE kept AS SELECT 'precious' AS word";
    assert!(compute.ask("alice", "pw1", "orders", made).await.is_err(), "it gives no row");
    // While it runs, and when it has to be started.
    let (code, answer) = compute.post("/spec", world.spec().to_string()).await;
    assert_eq!(code, 500, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("holds data of its own"), "{answer}");
    assert_eq!(compute.status().await["status"], "failed");
    let seen = compute.ask("postgres", "x", "orders", "SELECT 'x'").await;
    assert!(seen.is_err(), "only alice has a password");
    assert!(compute.ask("alice", "pw1", "orders", "SELECT 'serves'").await.is_ok());
    compute.signal_agent("TERM");
    compute.agent_ended().await;
    std::fs::remove_file(compute.dir.0.join("d.pgfleet/ledger.json")).unwrap();
    std::fs::write(compute.dir.0.join("s.json"), world.spec().to_string()).unwrap();
    compute.start_agent(&["-S", "s.json"]).await;
    let status = compute.until("failed", |status| status["status"] == "failed").await;
    assert!(status["error"].as_str().unwrap().contains("holds data of its own"), "{status}");
    assert!(world.commands().is_empty());
    // With its own spec the data is there.
    assert_eq!(compute.post("/spec", stock().to_string()).await.0, 200);
    assert_eq!(words(&compute).await, "precious");
}

#[tokio::test]
async fn a_built_directory_is_not_taken_for_local_data() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let compute = Compute::start(program, &[]).await;
    assert_eq!(compute.post("/spec", world.spec().to_string()).await.0, 200);
    add(&compute, "new").await;
    let (code, answer) = compute.post("/spec", stock().to_string()).await;
    assert_eq!(code, 500, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("was built from a page server"), "{answer}");
    // What runs goes on, and the next good spec is taken.
    assert_eq!(words(&compute).await, "from the backup,new");
    assert_eq!(compute.post("/spec", world.spec().to_string()).await.0, 200);
    assert_eq!(words(&compute).await, "from the backup,new");
}

#[tokio::test]
async fn a_spec_with_which_postgresql_does_not_start_is_undone_with_its_directory() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let compute = Compute::start(program, &[]).await;
    assert_eq!(compute.post("/spec", world.spec().to_string()).await.0, 200);
    let mut bad = world.spec();
    bad["timeline_id"] = json!("ee".repeat(16));
    bad["restart_policy"] = json!("now");
    bad["cluster"]["settings"] =
        json!([{"name": "shared_preload_libraries", "value": "no_such_library", "vartype": "string"}]);
    let (code, answer) = compute.post("/spec", bad.to_string()).await;
    assert_eq!(code, 500, "{answer}");
    assert_eq!(words(&compute).await, "from the backup");
    let shown = "SELECT current_setting('neon.timeline_id')";
    assert_eq!(compute.ask("alice", "pw1", "orders", shown).await.unwrap(), super::world::TIMELINE);
    let commands = world.commands();
    assert!(commands[1].contains(&"ee".repeat(16)) && commands[2].contains(super::world::TIMELINE), "{commands:?}");
}
