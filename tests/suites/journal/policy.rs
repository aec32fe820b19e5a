//! What a policy holds back, across changes of leader.

use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::controller::Role;
use pgfleet_api::explain::ExplainCode;
use pgfleet_api::policy::{Mode, PutPolicy};
use pgfleet_api::{ErrorCode, Fence, Generation, Term};
use pgfleet_clients::controller::ControllerError;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::{stays, wait_for};
use serde_json::json;

use super::{applied, asked, converge, explained, seen_as};

const fn mode(mode: Mode) -> PutPolicy {
    PutPolicy { mode: Some(mode), suspend: None }
}

fn refused(error: &ControllerError) -> Option<ErrorCode> {
    match error {
        ControllerError::Refused { body, .. } => Some(body.code),
        _ => None,
    }
}

/// A new spec waits, over a hand-over and over a crash; then it goes its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_compute_is_left_alone() {
    let Some(fleet) = Fleet::start("a_paused_compute_is_left_alone").await else { return };
    let a = fleet.controller("a").probe_interval("200ms").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    converge(&client, &agent, marked("first")).await;
    let view = client.put_policy(&agent.id, &mode(Mode::Pause), Some("tagsüber nicht")).await.unwrap();
    assert_eq!(view.policy.mode, Mode::Pause);
    client.put_spec(&agent.id, &marked("second"), None).await.unwrap();
    let untouched = async || agent.status().await.unwrap().generation == Some(Generation(1));
    stays("left alone", Duration::from_secs(1), untouched).await;
    let paused = explained(&client, "c1", ExplainCode::Paused).await;
    assert!(paused.notes.iter().any(|note| note.contains("generation 2 waits")), "{paused:?}");
    let error = client.terminate(&agent.id, Default::default()).await.unwrap_err();
    assert_eq!(refused(&error), Some(ErrorCode::HeldByPolicy), "{error}");

    let b = fleet.controller("b").probe_interval("200ms").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    stays("left alone by the next leader", Duration::from_secs(1), untouched).await;
    b.process.kill().await;
    a.is(Role::Leader, PATIENCE).await;
    stays("left alone after a crash", Duration::from_secs(1), untouched).await;

    client.put_policy(&agent.id, &mode(Mode::Active), None).await.unwrap();
    applied(&client, &agent).await;
    agent.runs(Generation(2)).await;
    let journal = asked(&client, "c1").await;
    let said: Vec<_> = journal.iter().filter(|(op, ..)| op == "put_policy").map(|(_, _, why)| why.as_deref()).collect();
    assert_eq!(said, [None, Some("tagsüber nicht")]);
}

/// What the leader remembers of an agent may be old: a fence that the agent has left behind makes it look again, and is no
/// sign of a commit that the database lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_look_is_no_lost_commit() {
    let Some(fleet) = Fleet::start("an_old_look_is_no_lost_commit").await else { return };
    // So slow a sweep that the leader does not see what happens behind its back.
    let a = fleet.controller("a").probe_interval("600s").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    converge(&client, &agent, marked("first")).await;
    client.put_policy(&agent.id, &mode(Mode::Pause), None).await.unwrap();
    let row = fleet.database().await.query_one("SELECT cluster_id::text FROM cluster", &[]).await.unwrap();
    let cluster_id = row.get::<_, String>(0).parse().unwrap();
    // Soon after what it did itself it looks once more. Where that look falls in between, there is another change.
    let unseen = wait_for("a change that the leader has not seen", PATIENCE, async || {
        let before = client.get(&agent.id).await.unwrap().generation;
        let spec = marked(&format!("after {before}"));
        let accepted = client.put_spec(&agent.id, &spec, None).await.unwrap();
        let fence = Fence {
            cluster_id,
            compute_id: agent.id.clone(),
            term: Term(1),
            generation: accepted.generation,
            spec_hash: accepted.spec_hash,
        };
        let body = json!({"spec": spec, "fence": fence}).to_string();
        assert_eq!(agent.call("POST", "/configure").body(body).send().await.status, 200);
        let known = client.get(&agent.id).await.unwrap().observed.unwrap().generation;
        (known < Some(accepted.generation)).then_some(accepted.generation)
    })
    .await;

    client.put_policy(&agent.id, &mode(Mode::Stop), None).await.unwrap();
    seen_as(&client, &agent, ComputeState::Terminated).await;
    assert_eq!(client.get(&agent.id).await.unwrap().generation, unseen, "nothing was lifted");
    assert!(asked(&client, "c1").await.iter().all(|(op, ..)| op != "lift"));
}

/// It ends, is ended again when its agent comes back, and runs once it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_compute_stays_stopped() {
    let Some(fleet) = Fleet::start("a_stopped_compute_stays_stopped").await else { return };
    let a = fleet.controller("a").probe_interval("200ms").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    converge(&client, &agent, marked("first")).await;
    client.put_policy(&agent.id, &mode(Mode::Stop), Some("not paid")).await.unwrap();
    seen_as(&client, &agent, ComputeState::Terminated).await;
    assert_eq!(agent.postmaster_pid(), None, "PostgreSQL is stopped");
    explained(&client, "c1", ExplainCode::Stopped).await;

    let gone = agent.call("POST", "/terminate?mode=immediate").send().await;
    assert_eq!(gone.status, 201, "{}", gone.body);
    assert_eq!(agent.process.exit_code(PATIENCE).await, 0);
    let b = fleet.controller("b").probe_interval("200ms").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    let again = fleet.agent("c1").after(&agent).start().await;
    again.shows("stopped again", PATIENCE, |status| status.status == ComputeState::Terminated).await;
    assert_eq!(again.postmaster_pid(), None);
    let stops = asked(&client, "c1").await.into_iter().filter(|(op, ..)| op == "stop").count();
    assert_eq!(stops, 2, "each end is in the journal");

    client.put_policy(&agent.id, &mode(Mode::Active), None).await.unwrap();
    let advice = explained(&client, "c1", ExplainCode::Ended).await;
    assert!(advice.advice.is_some_and(|advice| advice.contains("start its agent")));
    again.call("POST", "/terminate?mode=immediate").send().await;
    assert_eq!(again.process.exit_code(PATIENCE).await, 0);
    let third = fleet.agent("c1").after(&again).start().await;
    third.runs(Generation(1)).await;
    explained(&client, "c1", ExplainCode::Converged).await;
}
