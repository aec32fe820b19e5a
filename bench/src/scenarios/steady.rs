//! Hand-over after hand-over under a steady load through every member: no request of a plain client may fail.

use std::time::{Duration, Instant};

use pgfleet_api::Term;
use serde::Serialize;

use super::{Measured, failed, failures};
use crate::bed::Bed;
use crate::journal::Journal;
use crate::load::{Exchange, Kind, Lane, Load};
use crate::stats::{Spread, ms, rounded};

/// Members of the cluster.
const MEMBERS: usize = 3;
/// Connections of each kind to each member.
const WIDTH: usize = 8;
/// Between two hand-overs, once every member is warm again.
const PAUSE: Duration = Duration::from_millis(200);

/// Requests per second that are asked for, over all members.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Writes.
    pub writes: u32,
    /// Reads.
    pub reads: u32,
}

/// The load.
#[derive(Debug, Clone, Serialize)]
pub struct Steady {
    /// Hand-overs under it.
    pub handovers: usize,
    /// Requests of both kinds.
    pub requests: usize,
    /// Those that failed, without any retry.
    pub failed: usize,
    /// From the moment at which a request was due to its answer.
    pub latency_ms: Option<Spread>,
    /// Answers per second; with a machine that carries it, what was asked for.
    pub achieved_per_s: Rates,
}

/// Answers per second.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rates {
    /// Of writes.
    pub writes: f64,
    /// Of reads.
    pub reads: f64,
}

/// Hands over so many times in a fleet of so many computes. None where there is no PostgreSQL.
pub async fn measure(computes: usize, handovers: usize, asked: Asked) -> Option<Measured<Steady>> {
    let bed = Bed::make("load", MEMBERS, computes).await?;
    let mut lanes = Lane::spread(Kind::Write, &bed.urls(), WIDTH, asked.writes);
    lanes.extend(Lane::spread(Kind::Read, &bed.urls(), WIDTH, asked.reads));
    let begun = Instant::now();
    let load = Load::start(lanes, &bed.computes, &bed.tokens());
    tokio::time::sleep(PAUSE).await;
    for _ in 0..handovers {
        let (leader, _) = bed.leader().await;
        bed.hand_over((leader + 1) % bed.members.len()).await;
        bed.warm().await;
        tokio::time::sleep(PAUSE).await;
    }
    let took = begun.elapsed();
    let exchanges = load.finish().await;
    let lost = Journal::since(&bed.fleet, Term(1)).await.lost(&exchanges);
    let rate = |kind| rounded(exchanges.iter().filter(|one| one.executed(kind)).count() as f64 / took.as_secs_f64());
    let figures = Steady {
        handovers,
        requests: exchanges.len(),
        failed: failed(&exchanges),
        latency_ms: Spread::of(exchanges.iter().filter(|one| one.outcome.is_ok()).map(latency)),
        achieved_per_s: Rates { writes: rate(Kind::Write), reads: rate(Kind::Read) },
    };
    let kinds = failures(&exchanges);
    let of = |kind| Spread::of(exchanges.iter().filter(|one| one.executed(kind)).map(latency));
    let text = |kind| {
        of(kind).map_or_else(|| "none".to_owned(), |of| format!("p50 {}, p99 {}, max {}", of.p50, of.p99, of.max))
    };
    let notes = vec![
        format!(
            "Load at {computes} computes, {} writes/s and {} reads/s asked for: latency in ms of writes {}; of reads {}. A hand-over every {} ms. Up to 1 ms is the client's timer.",
            asked.writes,
            asked.reads,
            text(Kind::Write),
            text(Kind::Read),
            rounded(ms(took) / handovers.max(1) as f64)
        ),
        format!("Load: {lost} acknowledged writes are not in the journal; what failed: {kinds}."),
    ];
    Some(Measured { figures, notes })
}

fn latency(one: &Exchange) -> f64 {
    ms(one.ended - one.due)
}
