//! Planned hand-overs between members that stay up, at fleets of several sizes.
//!
//! One writer and one reader send back to back through one member, another one for each hand-over: the old leader, the new
//! one, and a member that only forwards, in turn.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Measured, answers, failed, failures};
use crate::bed::{Bed, HandedOver};
use crate::gap::{AROUND, Gap, gap};
use crate::load::{Exchange, Kind, Lane, Load, Pace};
use crate::stats::{Spread, median, rounded};

/// Members of the cluster.
const MEMBERS: usize = 3;

/// Hand-overs at one size of the fleet.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Computes in the database.
    pub computes: usize,
    /// Hand-overs.
    pub n: usize,
    /// The gap in executed writes.
    pub gap_ms: Option<Spread>,
    /// The gap in reads.
    pub read_gap_ms: Option<Spread>,
    /// The members' own account of the parts.
    pub phases_ms: BTreeMap<String, Option<Spread>>,
}

/// The member through which the clients of a hand-over send; its place is counted from the old leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Old = 0,
    New = 1,
    Bystander = 2,
}

impl Via {
    const ALL: [Self; MEMBERS] = [Self::Old, Self::New, Self::Bystander];
}

/// One hand-over.
#[derive(Debug)]
struct Round {
    via: Via,
    handed: HandedOver,
    write: Option<Gap>,
    read: Option<Gap>,
    quiet: Option<Gap>,
    exchanges: Vec<Exchange>,
}

/// Measures so many hand-overs. None where there is no PostgreSQL.
pub async fn measure(computes: usize, n: usize) -> Option<Measured<Planned>> {
    let bed = Bed::make("planned", MEMBERS, computes).await?;
    let mut rounds = Vec::with_capacity(n);
    for index in 0..n {
        rounds.push(round(&bed, index).await);
        bed.warm().await;
    }
    let mut parts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, part) in rounds.iter().flat_map(|round| &round.handed.phases.parts_ms) {
        parts.entry(name.clone()).or_default().push(*part);
    }
    let figures = Planned {
        computes,
        n,
        gap_ms: Spread::of(rounds.iter().filter_map(|round| round.write).map(|gap| gap.ms)),
        read_gap_ms: Spread::of(rounds.iter().filter_map(|round| round.read).map(|gap| gap.ms)),
        phases_ms: parts.into_iter().map(|(name, parts)| (name, Spread::of(parts))).collect(),
    };
    Some(Measured { notes: notes(computes, &rounds), figures })
}

async fn round(bed: &Bed, index: usize) -> Round {
    let (leader, _) = bed.leader().await;
    let via = Via::ALL[index % Via::ALL.len()];
    let endpoints = vec![bed.members[(leader + via as usize) % MEMBERS].url().to_owned()];
    let lane = |kind| Lane { kind, endpoints: endpoints.clone(), pace: Pace::BackToBack, keep_alive: true };
    let load = Load::start(vec![lane(Kind::Write), lane(Kind::Read)], &bed.computes, &bed.tokens());
    // What is usual is measured for as long as the definition says, before and after.
    tokio::time::sleep(AROUND * 2).await;
    let handed = bed.hand_over((leader + Via::New as usize) % MEMBERS).await;
    tokio::time::sleep(AROUND).await;
    let exchanges = load.finish().await;
    let writes = answers(&exchanges, Kind::Write);
    // Nothing happens in the time before; a window of the same length there has the noise of the measure.
    let quiet = handed.asked.checked_sub(AROUND).unwrap_or(handed.asked);
    let earlier: Vec<_> = writes.iter().copied().filter(|answer| *answer <= handed.asked).collect();
    Round {
        via,
        write: gap(&writes, handed.asked, handed.done),
        read: gap(&answers(&exchanges, Kind::Read), handed.asked, handed.done),
        quiet: gap(&earlier, quiet, quiet + (handed.done - handed.asked)),
        exchanges,
        handed,
    }
}

/// Where the time goes, in medians.
fn notes(computes: usize, rounds: &[Round]) -> Vec<String> {
    let writes = || rounds.iter().filter_map(|round| round.write);
    let middle = |figures: Vec<f64>| median(figures).map_or_else(|| "none".to_owned(), |figure| format!("{figure} ms"));
    let own = middle(rounds.iter().filter_map(|round| round.handed.phases.gap_ms).collect());
    let asked = middle(rounds.iter().map(|round| crate::stats::ms(round.handed.done - round.handed.asked)).collect());
    let quiet = Spread::of(rounds.iter().filter_map(|round| round.quiet).map(|gap| gap.ms));
    let quiet = quiet.map_or_else(|| "none".to_owned(), |quiet| format!("p50 {} ms, p99 {} ms", quiet.p50, quiet.p99));
    let via = |via| {
        middle(rounds.iter().filter(|round| round.via == via).filter_map(|round| Some(round.write?.ms)).collect())
    };
    let mut notes = vec![format!(
        "{computes} computes: a write takes {} otherwise; the gap begins {} after the request to take over was sent and ends {} \
         after its answer came; that took {asked}, the members' own gap is {own}. The same measure where nothing happens: \
         {quiet}. The gap through the old leader is {}, through the new one {}, through a bystander {}.",
        middle(writes().map(|gap| gap.usual_ms).collect()),
        middle(writes().map(|gap| gap.begins_ms).collect()),
        middle(writes().map(|gap| gap.ends_ms).collect()),
        via(Via::Old),
        via(Via::New),
        via(Via::Bystander),
    )];
    let without = rounds.iter().filter(|round| round.write.is_none() || round.read.is_none()).count();
    if without > 0 {
        notes.push(format!("{computes} computes: in {without} hand-overs the client got no answer afterwards."));
    }
    let broken: usize = rounds.iter().map(|round| failed(&round.exchanges)).sum();
    if broken > 0 {
        let kinds = failures(rounds.iter().flat_map(|round| &round.exchanges));
        notes.push(format!("{computes} computes: {broken} requests failed ({kinds})."));
    }
    let slowest = rounds.iter().filter_map(|round| Some((round.write?.ms, &round.handed.phases)));
    if let Some((gap, phases)) = slowest.max_by(|one, other| one.0.total_cmp(&other.0)) {
        let parts: Vec<String> =
            phases.parts_ms.iter().map(|(name, part)| format!("{name} {} ms", rounded(*part))).collect();
        notes.push(format!("{computes} computes: the largest gap, {} ms, had {}.", rounded(gap), parts.join(", ")));
    }
    notes
}
