//! Specs handed to agents per second, beside a bare loop to the same simulator.
//!
//! What counts are pushes to agents that are known: one bulk change of all of them, from the first push to the last, over
//! connections that are there; the leader takes the change durably and records what the agents say at the same time. The bare
//! loop's second round is its floor: the same number of requests under way, on connections that the first round has made.
//! The first contact is told as well; there the leader makes no more connections per second than `--connect-rate` allows.

use std::time::Instant;

use futures_util::StreamExt as _;
use pgfleet_api::{ClusterId, Fence, Generation, Term};
use pgfleet_domain::spec::spec_hash;
use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::Script;
use reqwest::Client;
use serde_json::{Value, json};

use super::ground::marked_orders;
use super::herd::{Herd, id};
use super::plan::Plan;
use super::report::Measured;
use crate::stats::rounded;

/// Requests under way at once: the leader's own limit by default.
const AT_ONCE: usize = 64;

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let agents = u32::try_from(plan.size_of(10_000, 200)).unwrap_or(u32::MAX);
    let mut herd = Herd::make(plan, "push", agents, &Script::default()).await?;
    let (first_round_per_s, bare_loop_per_s) = bare_loop(&herd.sim, agents).await;
    herd.sim.forget().await;
    herd.grow(agents).await;
    let first_contact_per_s = pushes_per_s(&herd.sim).await;
    herd.calm().await;
    herd.sim.reset().await;
    herd.change(0..agents, "pushed").await;
    herd.settled().await;
    let figures = json!({
        "pushes_per_s": pushes_per_s(&herd.sim).await,
        "first_contact_pushes_per_s": first_contact_per_s,
        "pushes": herd.sim.counters().await.range.pushes,
        "agents": agents,
    });
    let floors = json!({"bare_loop_per_s": bare_loop_per_s, "bare_loop_first_contact_per_s": first_round_per_s});
    let notes = vec![
        "from the first push of a bulk change to its last, as the simulator saw them; every agent is on an address of its own".to_owned(),
        format!("the bare loop is reqwest with {AT_ONCE} requests under way and bodies that were made before; the floor is its second round, on the connections of the first"),
    ];
    Some(Measured { figures, floors, notes })
}

/// Accepted pushes per second, from the first push to the last since the simulator counts.
async fn pushes_per_s(sim: &Sim) -> f64 {
    let range = sim.counters().await.range;
    assert!(range.accepted >= u64::from(sim.agents()), "not every agent was pushed to: {}", range.accepted);
    let times = range.first_push_unix_ms.zip(range.last_push_unix_ms);
    let took_ms = times.map_or(0, |(first, last)| last - first).max(1);
    rounded(f64::from(sim.agents()) / (took_ms as f64 / 1e3))
}

/// Pushes per second of a loop that does nothing else: the first round over all agents, and the second.
async fn bare_loop(sim: &Sim, agents: u32) -> (f64, f64) {
    let cluster_id = ClusterId(uuid::Uuid::new_v4());
    let client = Client::builder().no_proxy().tcp_nodelay(true).build();
    let client = client.unwrap_or_else(|error| panic!("no client: {error}"));
    (round(sim, agents, &client, cluster_id, 1).await, round(sim, agents, &client, cluster_id, 2).await)
}

async fn round(sim: &Sim, agents: u32, client: &Client, cluster_id: ClusterId, generation: i64) -> f64 {
    let bodies: Vec<(String, Vec<u8>)> = (0..agents)
        .map(|n| {
            let spec = marked_orders(&format!("round {generation} of {n}"));
            (sim.url(n), body(cluster_id, n, Generation(generation), &spec))
        })
        .collect();
    let begun = Instant::now();
    let count = bodies.len();
    let pushes = bodies.into_iter().map(|(url, body)| {
        let request = client.post(format!("{url}/configure")).header("content-type", "application/json").body(body);
        async move {
            let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
            let status = answer.status();
            let said = answer.bytes().await.unwrap_or_default();
            assert!(status.is_success(), "{url}: {status} {}", String::from_utf8_lossy(&said));
        }
    });
    futures_util::stream::iter(pushes).buffer_unordered(AT_ONCE).for_each(|()| std::future::ready(())).await;
    rounded(count as f64 / begun.elapsed().as_secs_f64())
}

fn body(cluster_id: ClusterId, n: u32, generation: Generation, spec: &Value) -> Vec<u8> {
    let compute_id = id(n).parse().unwrap_or_else(|error| panic!("a name: {error}"));
    let fence = Fence { cluster_id, compute_id, term: Term(1), generation, spec_hash: spec_hash(spec) };
    json!({"spec": spec, "fence": fence}).to_string().into_bytes()
}
