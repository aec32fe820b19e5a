//! Specs handed to agents per second, beside a bare loop to the same simulator.
//!
//! Every compute is behind when the leader starts, so nothing but pushing has to be done. Both sides begin without connections
//! and with the same number of requests under way, and get the same specs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use pgfleet_api::{ClusterId, Fence, Generation, Term};
use pgfleet_domain::spec::spec_hash;
use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::Script;
use pgfleet_harness::wait::wait_until;
use serde_json::{Value, json};

use super::ground::{Behind, Ground, Probes, marked_orders};
use super::herd::id;
use super::plan::Plan;
use super::report::Measured;
use crate::stats::rounded;

/// Requests under way at once: the leader's own limit by default.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(180);

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let agents = u32::try_from(plan.size_of(10_000, 200)).unwrap_or(u32::MAX);
    let mut ground = Ground::make("push").await?;
    let sim = Sim::start(ground.fleet.dir(), agents, &Script::default(), &[]).await;
    let specs: Arc<Vec<Value>> = Arc::new((0..agents).map(|n| marked_orders(&format!("pushed to {n}"))).collect());
    let bare_loop_per_s = bare_loop(&sim, &specs).await;
    sim.forget().await;
    let behind = (0..agents).zip(specs.iter());
    ground.plant_behind(behind.map(|(n, spec)| Behind::new(id(n), sim.url(n), spec)).collect()).await;
    ground.lead(Probes::AsShipped).await;
    wait_until("every agent has its spec", PATIENCE, async || {
        ground.leader().process.still_runs();
        sim.counters().await.range.accepted >= u64::from(agents)
    })
    .await;
    let range = sim.counters().await.range;
    let times = range.first_push_unix_ms.zip(range.last_push_unix_ms);
    let ms = times.map_or(0, |(first, last)| (last - first).max(1));
    let figures = json!({"pushes_per_s": rounded(f64::from(agents) / (ms as f64 / 1e3)), "pushes": range.pushes, "agents": agents});
    let floors = json!({"bare_loop_per_s": bare_loop_per_s});
    let notes = vec![
        "first to last push as the simulator saw them; every agent is on an address of its own, so each needs a connection".to_owned(),
        format!("the bare loop is reqwest with {AT_ONCE} requests under way and bodies that were made before"),
    ];
    Some(Measured { figures, floors, notes })
}

/// Pushes per second of a loop that does nothing else.
async fn bare_loop(sim: &Sim, specs: &[Value]) -> f64 {
    let cluster_id = ClusterId(uuid::Uuid::new_v4());
    let bodies: Vec<(String, Vec<u8>)> =
        (0..).zip(specs).map(|(n, spec)| (sim.url(n), body(cluster_id, n, spec))).collect();
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build();
    let client = client.unwrap_or_else(|error| panic!("no client: {error}"));
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

fn body(cluster_id: ClusterId, n: u32, spec: &Value) -> Vec<u8> {
    let compute_id = id(n).parse().unwrap_or_else(|error| panic!("a name: {error}"));
    let fence = Fence { cluster_id, compute_id, term: Term(1), generation: Generation(1), spec_hash: spec_hash(spec) };
    json!({"spec": spec, "fence": fence}).to_string().into_bytes()
}
