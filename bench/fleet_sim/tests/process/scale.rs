//! Many agents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::Script;
use pgfleet_harness::wait::wait_until;
use tokio::task::JoinSet;

use crate::Dir;
use crate::bare::{Kept, push};

const AGENTS: u32 = 20_000;
/// Clients that push at once, and how many connections each keeps.
const CLIENTS: u32 = 16;
const KEPT: usize = 64;
/// Debug build on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(120);

/// Resident memory in KiB.
fn rss_kib(sim: &Sim) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sim.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Pushes a generation to every agent, each client to its part.
async fn push_all(sim: &Arc<Sim>, generation: i64) -> usize {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let sim = Arc::clone(sim);
        clients.spawn(async move {
            let mut kept = Kept::new(KEPT);
            for n in (client..AGENTS).step_by(CLIENTS as usize) {
                let answer = kept.ask(&sim.url(n), "POST", "/configure", &push(n, generation)).await.unwrap();
                assert_eq!(answer.status, 202, "{}", answer.body);
            }
            kept.open()
        });
    }
    clients.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_agents_are_pushed_in_seconds() {
    let dir = Dir::new();
    let few = dir.sim(1, &Script::default(), &[]).await;
    let nothing = rss_kib(&few);
    drop(few);
    let sim = Arc::new(dir.sim(AGENTS, &Script::default(), &[]).await);
    let begun = Instant::now();
    let kept = push_all(&sim, 1).await;
    let took = begun.elapsed();
    let counters = sim.counters().await;
    let with_connections = rss_kib(&sim);
    let all = u64::from(AGENTS);
    assert_eq!((counters.range.pushes, counters.range.accepted, counters.range.connects), (all, all, all));
    assert_eq!(counters.connections.ever, all);
    assert!(counters.connections.most <= (kept + 2 * CLIENTS as usize) as u64 + 64, "{:?}", counters.connections);
    wait_until("all run", Duration::from_secs(10), async || sim.counters().await.range.settled == AGENTS).await;
    let bytes = |kib: u64| kib.saturating_sub(nothing) * 1024 / all;
    println!(
        "{AGENTS} agents: {:.1} s for a push to each, {:.0} pushes/s, {} connects in the busiest second; {} bytes of \
         resident memory per agent with up to {} connections open",
        took.as_secs_f64(),
        f64::from(AGENTS) / took.as_secs_f64(),
        counters.connections.most_per_second,
        bytes(with_connections),
        counters.connections.most,
    );
    assert!(took < LIMIT, "{took:?}");
    // With its part of the buffers of a thousand connections.
    assert!(bytes(with_connections) < 3000, "{} bytes per agent", bytes(with_connections));
}

#[tokio::test]
async fn connections_make_way_where_there_are_too_many() {
    let dir = Dir::new();
    let sim = dir.sim(300, &Script::default(), &["--max-connections", "100"]).await;
    let mut kept = Kept::new(1000);
    for n in 0..300 {
        let answer = kept.ask(&sim.url(n), "GET", "/status", "").await;
        assert_eq!(answer.unwrap_or_else(|error| panic!("agent {n} was turned away: {error}")).status, 200);
    }
    let connections = sim.counters().await.connections;
    assert!(connections.given_up >= 150, "{connections:?}");
    assert!(connections.most <= 170, "{connections:?}");
    assert_eq!((connections.ever, connections.turned_away), (300, 0));
    // The ones that were used last are there still.
    let again = kept.ask(&sim.url(299), "GET", "/status", "").await.unwrap();
    assert_eq!((again.status, sim.counters().await.connections.ever), (200, 300));
}
