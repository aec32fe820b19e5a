//! A page server that fails in every way it can.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::server::Turn;
use super::world::{World, backup, words};
use crate::support::{Compute, postgres_program};

fn tar_with(name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(header.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_is_not_whole_is_asked_for_again_and_never_put_in_place() {
    let Some(program) = postgres_program() else { return };
    let backup = backup(&program).await;
    let world = World::start(&backup).await;
    let mut damaged = backup.archive.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xA5);
    let faults = [
        Turn::Cut,
        Turn::LateError { after_done: false },
        Turn::LateError { after_done: true },
        Turn::Other(damaged),
        Turn::Other(tar_with("../../escaped")),
        Turn::Refuse,
    ];
    let tries = faults.len().to_string();
    let mut compute = Compute::prepare(program);
    compute.environment.push(("NEON_COMPUTE_TESTING_BASEBACKUP_RETRIES", tries.leak()));
    world.page_server.state.turns.lock().unwrap().extend(faults.clone());
    compute.start_agent(&["--dev"]).await;
    // All tries fail: that is told, and nothing lies in the place.
    let (code, answer) = compute.post("/spec", world.spec().to_string()).await;
    let told = "compute configuration failed: storage: there is no base backup after 6 tries: the page server does not give a base backup: it refuses \
                (42P01): there is no such timeline";
    assert_eq!((code, &answer["error"]), (500, &json!(told)), "{answer}");
    assert_eq!(compute.status().await["status"], "failed");
    assert!(!compute.pgdata().exists() && !compute.dir.0.join("escaped").exists());
    assert_eq!(world.commands().len(), faults.len());
    let log = compute.agent_log();
    for reason in ["the server closed it", "it refuses (XX000): a layer is missing", "damaged", "leads out of the data"]
    {
        assert!(log.contains(reason), "{reason}\n{log}");
    }
    assert!(!log.contains(super::server::TOKEN), "the token is in the log");
    // It is tried again without being asked, and whole backups are taken.
    compute.until("running", |status| status["status"] == "running").await;
    assert_eq!(words(&compute).await, "from the backup");
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_a_newer_spec_does_not_wait() {
    let Some(program) = postgres_program() else { return };
    let world = World::start(&backup(&program).await).await;
    let compute = Compute::start(program, &[]).await;
    let mut wrong = world.spec();
    wrong["storage_auth_token"] = json!("guessed");
    let request = compute.request(reqwest::Method::POST, "/spec").header("prefer", "respond-async");
    assert_eq!(request.body(wrong.to_string()).send().await.unwrap().status(), 202);
    compute.until("a try", |_| compute.agent_log().contains("trying again")).await;
    assert!(compute.agent_log().contains("it refuses (28P01)"));
    assert!(world.commands().is_empty());
    let begun = Instant::now();
    let (code, status) = compute.post("/spec", world.spec().to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for all tries of the older spec");
    assert_eq!(words(&compute).await, "from the backup");
    assert!(!compute.agent_log().contains("guessed") && !compute.status().await.to_string().contains("guessed"));
}
