//! A real controller takes simulated agents for real ones.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_api::compute::RegisterCompute;
use pgfleet_clients::controller::ControllerClient;
use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::{Away, Group, Script};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;

use crate::Dir;

const LIMIT: Duration = Duration::from_secs(60);
/// Agents; from the second number on every application fails.
const AGENTS: u32 = 40;
const FAILING: u32 = 30;

async fn put(client: &ControllerClient, sim: &Sim, agents: std::ops::Range<u32>, mark: &str) {
    for n in agents {
        let id = format!("sim-{n}").parse().unwrap();
        let body = RegisterCompute { agent_url: sim.url(n), labels: BTreeMap::default(), spec: Some(marked(mark)) };
        client.register(&id, &body).await.unwrap();
    }
}

async fn settle(sim: &Sim, agents: std::ops::Range<u32>) {
    let (what, wanted) = (format!("{agents:?} run what they accepted"), agents.end - agents.start);
    wait_until(&what, LIMIT, async || sim.counters_of(agents.start, agents.end).await.range.settled == wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_controller_brings_them_to_their_specs() {
    let Some(fleet) = Fleet::start("a_real_controller_brings_them_to_their_specs").await else { return };
    let dir = Dir::new();
    let failing = Group { from: FAILING, failing: 1.0, ..Group::default() };
    let script =
        |further: Option<Group>| Script { seed: 1, groups: [failing.clone()].into_iter().chain(further).collect() };
    let sim = dir.sim(AGENTS, &script(None), &["--jwks-file", fleet.keys().jwks.to_str().unwrap()]).await;
    let leader = fleet.controller("a").probe_interval("500ms").start_leader().await;
    let client = fleet.client(&[&leader]);
    put(&client, &sim, 0..AGENTS, "one").await;
    settle(&sim, 0..FAILING).await;
    wait_until("ten have failed", LIMIT, async || sim.counters_of(FAILING, AGENTS).await.range.failed >= 10).await;

    // Half of them vanish, get a spec, and return.
    let away = Group { to: Some(FAILING / 2), away: Some(Away::Reset), ..Group::default() };
    sim.script(&script(Some(away))).await;
    sim.reset().await;
    put(&client, &sim, 0..FAILING, "two").await;
    let is = async |n: u32, generation: i64| {
        let line = sim.lines(n, n + 1).await.remove(0);
        line.applied.map(|applied| applied.get()) == Some(generation)
    };
    wait_until("the last has it", LIMIT, async || is(FAILING - 1, 2).await).await;
    assert!(is(0, 1).await, "it took a spec while it was away");
    sim.script(&script(None)).await;
    wait_until("all of them have it", LIMIT, async || {
        let lines = sim.lines(0, FAILING).await;
        lines.iter().all(|line| line.applied.map(|applied| applied.get()) == Some(2))
    })
    .await;
    let range = sim.counters_of(0, FAILING).await.range;
    assert!(range.refused.is_empty(), "a push was refused: {range:?}");
    assert_eq!(range.accepted, u64::from(FAILING), "{range:?}");

    // What was applied is known to the controller.
    for n in [0, FAILING - 1] {
        let id = format!("sim-{n}").parse().unwrap();
        wait_until("the controller knows", LIMIT, async || client.get(&id).await.unwrap().lag == 0).await;
    }
}
