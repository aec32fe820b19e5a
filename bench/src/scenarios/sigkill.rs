//! The leader's process dies under write load through the members that stay up.

use std::time::Instant;

use rustix::process::Signal;
use serde::Serialize;

use super::{Measured, failures};
use crate::bed::Bed;
use crate::journal::Journal;
use crate::load::{Exchange, Kind, Lane, Load};
use crate::metrics::Phases;
use crate::stats::{Spread, median, ms};

/// Members of the cluster.
const MEMBERS: usize = 3;
/// Writes per second, over all members that stay up, and connections to each.
const RATE: u32 = 500;
const WIDTH: usize = 16;
/// Writes before the kill, and after it: more than can be under way, so that some of them are a new leader's.
const BEFORE: usize = 100;
const AFTERWARDS: usize = 100;

/// Takeovers after SIGKILL.
#[derive(Debug, Clone, Serialize)]
pub struct Sigkill {
    /// How many.
    pub n: usize,
    /// From the signal to the next write that another leader executed, as its client saw it.
    pub ms: Option<Spread>,
}

struct Round {
    ms: Option<f64>,
    phases: Phases,
    exchanges: Vec<Exchange>,
    lost: usize,
}

/// Kills so many leaders of a fleet of so many computes. None where there is no PostgreSQL.
pub async fn measure(computes: usize, n: usize) -> Option<Measured<Sigkill>> {
    let mut bed = Bed::make("sigkill", MEMBERS, computes).await?;
    let mut rounds = Vec::with_capacity(n);
    for _ in 0..n {
        rounds.push(round(&mut bed).await);
        bed.add().await;
        bed.warm().await;
    }
    let figures = Sigkill { n, ms: Spread::of(rounds.iter().filter_map(|round| round.ms)) };
    let own = rounds.iter().filter_map(|round| round.phases.gap_ms);
    let mut parts: Vec<String> = Vec::new();
    for name in rounds.iter().flat_map(|round| round.phases.parts_ms.keys()).collect::<std::collections::BTreeSet<_>>()
    {
        let part = median(rounds.iter().filter_map(|round| round.phases.parts_ms.get(name).copied()));
        parts.extend(part.map(|part| format!("{name} {part} ms")));
    }
    let lost: usize = rounds.iter().map(|round| round.lost).sum();
    let kinds = failures(rounds.iter().flat_map(|round| &round.exchanges));
    let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds };
    let notes = vec![
        format!(
            "SIGKILL at {computes} computes: the new leader's own account, from noticing the death to serving, in medians: {} \
             ms, of it {}. The rest is noticing, and the write itself.",
            median(own).unwrap_or_default(),
            parts.join(", ")
        ),
        format!("SIGKILL: {lost} acknowledged writes are not in the journal; what failed: {kinds}."),
    ];
    Some(Measured { figures, notes })
}

async fn round(bed: &mut Bed) -> Round {
    let (leader, term) = bed.leader().await;
    let lanes = Lane::spread(Kind::Write, &bed.others(leader), WIDTH, RATE);
    let load = Load::start(lanes, &bed.computes, &bed.tokens());
    load.executed(Kind::Write, Instant::now(), BEFORE).await;
    let dead = bed.members.remove(leader);
    let killed = Instant::now();
    dead.process.signal(Signal::KILL);
    load.executed(Kind::Write, killed, AFTERWARDS).await;
    let exchanges = load.finish().await;
    drop(dead);
    let journal = Journal::since(&bed.fleet, term).await;
    let (successor, _) = bed.leader().await;
    Round {
        ms: next_executed(&exchanges, &journal, killed, term.get()),
        phases: Phases::of(&bed.members[successor]).await,
        lost: journal.lost(&exchanges),
        exchanges,
    }
}

/// Milliseconds from a moment to the answer of the next write that a later term executed. An answer of the old term that
/// was on its way does not count.
pub(super) fn next_executed(exchanges: &[Exchange], journal: &Journal, from: Instant, term: i64) -> Option<f64> {
    let writes = exchanges.iter().filter(|one| one.executed(Kind::Write) && one.ended > from);
    let later = writes.filter(|write| journal.term_of(write).is_some_and(|of| of > term));
    later.map(|write| ms(write.ended - from)).min_by(f64::total_cmp)
}
