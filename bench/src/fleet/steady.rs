//! What a fleet costs that has nothing to do, and how fast the API answers beside.
//!
//! First nobody but the agents is there, and the leader's processor time, memory and statements are counted. Then clients read and
//! write at fixed rates at the same time, and the leader's processor time is counted again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgfleet_api::auth::Scope;
use pgfleet_fleet_sim::script::Script;
use serde_json::json;

use super::blast::{Compose, head};
use super::ground::marked_orders;
use super::herd::{Herd, id};
use super::paced::{Paced, Running, spread};
use super::plan::Plan;
use super::report::Measured;

/// Requests per second.
const READS: u32 = 2000;
const WRITES: u32 = 500;
const QUICK: (u32, u32) = (100, 20);

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let computes = u32::try_from(plan.size_of(20_000, 200)).unwrap_or(u32::MAX);
    let mut herd = Herd::make(plan, "steady", computes, &Script::default()).await?;
    herd.grow(computes).await;
    herd.calm().await;
    herd.sim.reset().await;
    let window = plan.window(120.0, 2.0);
    let quiet = herd.cost(window).await;
    let asked = herd.sim.counters().await;
    let rates = if plan.quick { QUICK } else { (READS, WRITES) };
    let (reads, writes) = (Running::start(read(&herd, rates.0)), Running::start(write(&herd, rates.1)));
    let loaded = herd.cost(plan.window(30.0, 1.0)).await;
    let (reads, writes) = (spread(reads.finish().await), spread(writes.finish().await));
    let figures = json!({
        "cpu_percent_of_core": quiet.cpu_percent,
        "rss_mb": quiet.rss_mb,
        "db_statements_per_s": quiet.statements_per_s,
        "read_ms": {"p50": reads.p50, "p99": reads.p99, "max": reads.max},
        "write_ms": {"p50": writes.p50, "p99": writes.p99, "max": writes.max},
        "under_load": {"cpu_percent_of_core": loaded.cpu_percent, "rss_mb": loaded.rss_mb,
                       "db_statements_per_s": loaded.statements_per_s},
        "probes_per_s": asked.range.probes as f64 / window.as_secs_f64(),
        "connections": asked.connections.now,
    });
    let notes = vec![
        format!("processor, memory and statements over {} s of a fleet that nobody asks anything", window.as_secs()),
        format!(
            "then {} reads and {} durable writes per second at the same time; latency counts from when a request was due",
            rates.0, rates.1
        ),
        "statements are counted by pg_stat_statements where it is installed, else transactions".to_owned(),
    ];
    Some(Measured { figures, floors: json!({}), notes })
}

/// Clients that read one compute after the other.
pub(super) fn read(herd: &Herd, per_s: u32) -> Paced {
    let (token, computes) = (herd.tokens(Scope::Viewer), u64::from(herd.computes.max(1)));
    let turn = AtomicU64::new(0);
    let compose: Compose = Arc::new(move |_, _, request| {
        let n = scattered(turn.fetch_add(1, Ordering::Relaxed), computes);
        head(request, "GET", &format!("/control/v1/compute/{}", id(n)), &token(), 0);
    });
    Paced { to: herd.ground.address(), per_s, compose }
}

/// Clients that put a new spec to one compute after the other.
pub(super) fn write(herd: &Herd, per_s: u32) -> Paced {
    const PLACE: &str = "0123456789abcdef";
    let (token, computes) = (herd.tokens(Scope::Infra), u64::from(herd.computes.max(1)));
    let body = marked_orders(PLACE).to_string();
    let turn = AtomicU64::new(0);
    let compose: Compose = Arc::new(move |_, _, request| {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let path = format!("/control/v1/compute/{}/spec", id(scattered(turn, computes)));
        head(request, "PUT", &path, &token(), body.len());
        request.extend_from_slice(body.replace(PLACE, &format!("{turn:016x}")).as_bytes());
    });
    Paced { to: herd.ground.address(), per_s, compose }
}

/// Goes through all, far from each other: a prime that divides no size that is used.
fn scattered(turn: u64, of: u64) -> u32 {
    u32::try_from(turn.wrapping_mul(7919) % of.max(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_compute_gets_its_turn() {
        for size in [1, 200, 1000, 20_000] {
            assert_eq!((0..size).map(|turn| scattered(turn, size)).collect::<BTreeSet<_>>().len() as u64, size);
        }
    }
}
