//! Where the WAL ends: agreed, settled, or not known.

use serde_json::json;

use super::server::TOKEN;
use super::world::{TIMELINE, World, backup, with_sync_mode, words};
use crate::support::{Compute, Scratch, postgres_program};

const AGREED: Option<(&str, &str)> = Some(("0/ABCDEF0", "0/ABCDEF0"));

#[tokio::test]
async fn a_majority_that_agrees_is_enough() {
    let Some(program) = postgres_program() else { return };
    let mut world = World::start(&backup(&program).await).await;
    let mut spec = world.spec();
    // One is away, and the ports of the others stay as they are.
    drop(world.safekeepers.remove(2));
    let compute = Compute::start(program.clone(), &[]).await;
    assert_eq!(compute.post("/spec", spec.to_string()).await.0, 200);
    assert!(world.commands()[0].contains(" 0/ABCDEF0 "), "{:?}", world.commands());

    // One that does not know the timeline counts as one that is away.
    spec["safekeeper_connstrings"].as_array_mut().unwrap().pop();
    drop(compute);
    let world = World::start(&backup(&program).await).await;
    world.safekeeper_says(1, None);
    let compute = Compute::start(program, &[]).await;
    assert_eq!(compute.post("/spec", world.spec().to_string()).await.0, 200);
    assert_eq!(words(&compute).await, "from the backup");
}

#[tokio::test]
async fn what_is_not_agreed_is_settled_by_postgresql() {
    let Some(program) = postgres_program() else { return };
    let (world, scratch) = (World::start(&backup(&program).await).await, Scratch::new());
    let wrapper = with_sync_mode(&program, &scratch.0, Some("0/BBBBBB0"));
    world.safekeeper_says(0, Some(("0/BBBBBB0", "0/ABCDEF0")));
    let compute = Compute::start(wrapper, &[]).await;
    let (code, status) = compute.post("/spec", world.spec().to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    assert!(world.commands()[0].contains(" 0/BBBBBB0 "), "{:?}", world.commands());
    let notes = std::fs::read_to_string(scratch.0.join("notes")).unwrap();
    let lines: Vec<_> = notes.lines().collect();
    let settled = format!("sync {}/d.pgfleet-new/questions {TOKEN}", compute.dir.0.display());
    assert_eq!(lines, [settled, format!("neon.timeline_id = '{TIMELINE}'"), format!("server {TOKEN}")]);
    assert_eq!(words(&compute).await, "from the backup");
    let page = compute.get("/metrics").await.1.to_string();
    assert!(page.contains("compute_ctl_storage_safekeeper_syncs_total{outcome=\\\"settled\\\"} 1"), "{page}");
    assert!(!compute.agent_log().contains(TOKEN), "the token is in the log");
}

#[tokio::test]
async fn without_a_majority_nothing_is_started() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    for i in 0..3 {
        world.safekeeper_says(i, if i == 0 { AGREED } else { None });
    }
    // Stock PostgreSQL has no such mode.
    let compute = Compute::start(program, &[]).await;
    let (code, answer) = compute.post("/spec", world.spec().to_string()).await;
    let said = answer["error"].as_str().unwrap_or_default();
    assert_eq!(code, 500, "{answer}");
    assert!(said.contains("storage: it is not known where the WAL ends: postgres --sync-safekeepers failed"), "{said}");
    assert!(world.commands().is_empty() && !compute.pgdata().exists());
    // When they agree again, it goes on by itself.
    world.safekeeper_says(1, AGREED);
    compute.until("running", |status| status["status"] == "running").await;
}

#[tokio::test]
async fn a_termination_tells_where_the_safekeepers_say_it_ends() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let compute = Compute::start(program.clone(), &[]).await;
    assert_eq!(compute.post("/spec", world.spec().to_string()).await.0, 200);
    for i in 0..3 {
        world.safekeeper_says(i, Some(("0/CCCCCC0", "0/CCCCCC0")));
    }
    assert_eq!(compute.post("/terminate?mode=immediate", "").await, (200, json!({"lsn": "0/CCCCCC0"})));

    // What is not known is not told, and the status stays to be read.
    let world = World::start(&backup(&program).await).await;
    let compute = Compute::start(program, &[]).await;
    assert_eq!(compute.post("/spec", world.spec().to_string()).await.0, 200);
    for i in 0..3 {
        world.safekeeper_says(i, None);
    }
    assert_eq!(compute.post("/terminate?mode=fast", "").await, (200, json!({"lsn": null})));
    assert_eq!(compute.status().await["status"], "terminated");
    assert!(compute.agent_log().contains("the termination tells no LSN"));
}
