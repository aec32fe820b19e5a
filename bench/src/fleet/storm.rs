//! Half of the agents vanish and return: what the others and the API feel of it.
//!
//! While they are away each of their computes gets a new spec, so that all of them have to be reached when they return. Clients read
//! and write all the time. Settled is the fleet when no compute is behind for longer than a second: those
//! that the load has just written to are always.

use std::time::Instant;

use pgfleet_fleet_sim::script::{Away, Group, Script};
use serde_json::{Value, json};

use super::herd::{Change, Herd};
use super::paced::{Running, spread};
use super::plan::Plan;
use super::report::Measured;
use super::steady::{read, write};
use crate::stats::rounded;

/// Requests per second.
const READS: u32 = 1000;
const WRITES: u32 = 100;
const QUICK: (u32, u32) = (100, 10);

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let computes = u32::try_from(plan.size_of(20_000, 200)).unwrap_or(u32::MAX);
    let mut herd = Herd::make(plan, "storm", computes, &Script::default()).await?;
    herd.grow(computes).await;
    herd.calm().await;
    let load = if plan.quick { QUICK } else { (READS, WRITES) };
    let quiet = Load::start(&herd, load);
    tokio::time::sleep(plan.window(20.0, 1.0)).await;
    let quiet = quiet.finish().await;

    let (half, away) = (computes / 2, plan.window(20.0, 2.0));
    let gone = Group { to: Some(half), away: Some(Away::Reset), ..Group::default() };
    let change = Change::of(0..half, "while away");
    herd.sim.reset().await;
    let changing = Load::start(&herd, load);
    let vanished = Instant::now();
    herd.sim.script(&Script { seed: 0, groups: vec![gone] }).await;
    let answer = herd.send(change).await;
    let changed_s = rounded(vanished.elapsed().as_secs_f64());
    tokio::time::sleep(plan.window(2.0, 0.2)).await;
    let (changing, waiting) = (changing.finish().await, Load::start(&herd, load));
    answer.check();
    tokio::time::sleep(away.saturating_sub(vanished.elapsed())).await;
    let while_away = herd.sim.counters().await.connections.most_per_second;
    herd.sim.reset().await;
    let (waiting, returning) = (waiting.finish().await, Load::start(&herd, load));
    herd.sim.script(&Script::default()).await;
    let returned = Instant::now();
    herd.caught_up().await;
    let settle_s = rounded(returned.elapsed().as_secs_f64());
    // What follows the return is part of the storm.
    tokio::time::sleep(plan.window(5.0, 0.5)).await;
    let returning = returning.finish().await;
    let connects = herd.sim.counters().await.connections.most_per_second.max(while_away);
    let by_phase = json!({"change": changing.p99(), "away": waiting.p99(), "back": returning.p99()});
    let by_kind = quiet.p99();
    let (quiet, stormy) = (spread(quiet.all()), spread([changing, waiting, returning].map(Latencies::all).concat()));
    let figures = json!({
        "api_p99_ms": stormy.p99,
        "api_p99_ms_by_phase": by_phase,
        "api_max_ms": stormy.max,
        "changed_s": changed_s,
        "connects_per_s": connects,
        "connects_per_s_while_away": while_away,
        "settle_s": settle_s,
    });
    let floors = json!({"quiet_p99_ms": quiet.p99, "quiet_p99_ms_by_kind": by_kind, "quiet_max_ms": quiet.max});
    let notes = vec![
        format!("{half} of {computes} agents reset their connections for {} s, get a new spec each meanwhile, and return together", away.as_secs()),
        "API: reads and durable writes, ten to one, all latencies together, from due to answered; connects: the most in one second as \
         the simulator counted them, of all agents; phases: from the vanishing until 2 s after the bulk change was answered, \
         until the return, until 5 s after the fleet was settled"
            .to_owned(),
    ];
    Some(Measured { figures, floors, notes })
}

/// Readers and writers.
struct Load {
    reads: Running,
    writes: Running,
}

impl Load {
    fn start(herd: &Herd, (reads, writes): (u32, u32)) -> Self {
        Self { reads: Running::start(read(herd, reads)), writes: Running::start(write(herd, writes)) }
    }

    async fn finish(self) -> Latencies {
        Latencies { reads: self.reads.finish().await, writes: self.writes.finish().await }
    }
}

/// The latency of each request, in milliseconds.
struct Latencies {
    reads: Vec<f64>,
    writes: Vec<f64>,
}

impl Latencies {
    fn p99(&self) -> Value {
        let of = |latencies: &Vec<f64>| spread(latencies.clone()).p99;
        json!({"reads": of(&self.reads), "writes": of(&self.writes)})
    }

    fn all(self) -> Vec<f64> {
        [self.reads, self.writes].concat()
    }
}
