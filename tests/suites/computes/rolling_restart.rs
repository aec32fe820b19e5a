//! Hand-overs while clients write, read and wait: nobody's request fails, and nothing that was acknowledged is lost.

use pgfleet_api::compute::WaitOutcome;
use pgfleet_api::controller::Role;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::load::Load;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use tokio::task::JoinSet;

use super::{applied, register};

/// What has to succeed before, between and after the hand-overs.
const ENOUGH: usize = 100;

/// One member's turn: a new process asks the leader to step down; the old one is told to end when the new one leads.
async fn replace(fleet: &Fleet, old: Controller, name: &str, term: i64) -> Controller {
    let new = fleet.controller(name).lease("5s", "500ms").memory_door().as_candidate().start().await;
    assert_eq!(new.leads(PATIENCE).await.get(), term);
    old.is(Role::Candidate, PATIENCE).await;
    old.process.terminate();
    assert_eq!(old.process.exit_code(PATIENCE).await, 0);
    new
}

/// Two hand-overs under load. Each acknowledged (compute, generation, hash) is in the history, and every agent ends up with
/// the newest.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_under_load() {
    let Some(fleet) = Fleet::start("rolling_restart_under_load").await else { return };
    let a = fleet.controller("a").lease("5s", "500ms").start_leader().await;
    let b = fleet.controller("b").lease("5s", "500ms").memory_door().start().await;
    b.is(Role::Candidate, PATIENCE).await;
    let mut agents = Vec::new();
    for name in ["c1", "c2", "c3"] {
        agents.push(fleet.agent(name).start().await);
    }
    let first = fleet.client(&[&a]);
    for agent in &agents {
        register(&first, agent, Some(marked("first"))).await;
        applied(&first, agent).await;
    }

    let ids: Vec<_> = agents.iter().map(|agent| agent.id.clone()).collect();
    let load = Load::start(&fleet, &[&a, &b], &ids);
    load.goes_on("load before the restart", ENOUGH).await;
    let c = replace(&fleet, a, "c", 2).await;
    load.goes_on("load after the first hand-over", ENOUGH).await;
    // The second one: the clients know only a, which is gone, and b, which never led.
    let d = replace(&fleet, c, "d", 3).await;
    load.goes_on("load after the second hand-over", ENOUGH).await;
    let acknowledged = load.finish().await;

    acknowledged.is_in_the_history(&fleet).await;
    let newest = acknowledged.newest();
    assert_eq!(newest.len(), agents.len());
    for agent in &agents {
        let (generation, hash) = &newest[&agent.id];
        let status = agent.runs(*generation).await;
        assert_eq!(status.spec_hash.as_ref(), Some(hash), "{}", agent.id);
    }
    let history = fleet.history().await;
    let began: Vec<&str> = history.iter().map(|(_, began, _)| began.as_str()).collect();
    assert_eq!(began, ["first", "step_down", "step_down"]);
    assert_eq!(d.leads(PATIENCE).await.get(), 3);
    b.is(Role::Candidate, PATIENCE).await;
    fleet.memories_agree(&[&b]).await;
}

/// A client that waits for a generation does not notice that the leader changes in between.
#[tokio::test(flavor = "multi_thread")]
async fn wait_survives_a_hand_over() {
    let Some(fleet) = Fleet::start("wait_survives_a_hand_over").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    // Under an address where nobody is, so that it cannot be settled before the hand-over.
    let mut lost = pgfleet_api::compute::RegisterCompute {
        agent_url: "http://127.0.0.1:1".to_owned(),
        labels: Default::default(),
        spec: Some(marked("waited for")),
    };
    client.register(&agent.id, &lost).await.unwrap();
    let mut waiting = JoinSet::new();
    let (waiter, id) = (client.clone(), agent.id.clone());
    waiting.spawn(async move { waiter.wait(&id, None, PATIENCE).await });
    let b = fleet.controller("b").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    assert!(waiting.try_join_next().is_none(), "the wait goes on");
    agent.url().clone_into(&mut lost.agent_url);
    fleet.client(&[&b]).register(&agent.id, &lost).await.unwrap();
    let result = waiting.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((result.outcome, result.generation.get()), (WaitOutcome::Applied, 1), "{result:?}");
}
