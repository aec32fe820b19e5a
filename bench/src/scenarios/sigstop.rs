//! The leader's process is frozen under write load, another member takes over, and the old one goes on.
//!
//! A frozen leader cannot be told from a slow network, so the others wait for the end of its lease. What it does after it is
//! let go is looked for where it would show: in the journal, at the agents, and in its answers to writes at its own port.

use std::time::Instant;

use pgfleet_api::Term;
use serde::Serialize;

use super::sigkill::next_executed;
use super::{Measured, failures};
use crate::bed::{Bed, LEASE, PATIENCE};
use crate::journal::{Journal, written_late};
use crate::load::{Exchange, Kind, Lane, Load, Pace};
use crate::stats::{ms, rounded};

/// Members of the cluster.
const MEMBERS: usize = 3;
/// Writes per second, over all members that stay up. So many connections to each that none has to be used again while the
/// requests on it wait for the end of the lease.
const RATE: u32 = 40;
const WIDTH: usize = 200;
/// Writes before, of a new leader, and at the old one's port.
const BEFORE: usize = 40;
const AFTERWARDS: usize = 40;
const AT_THE_OLD: usize = 20;

/// The longest of the takeovers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Longest {
    /// Milliseconds.
    pub max: Option<f64>,
}

/// Takeovers after SIGSTOP.
#[derive(Debug, Clone, Serialize)]
pub struct Sigstop {
    /// How many.
    pub n: usize,
    /// Length of the members' lease.
    pub lease_ms: f64,
    /// From the signal to the next executed write.
    pub ms: Longest,
}

struct Round {
    ms: Option<f64>,
    late: i64,
    by_the_old: usize,
    lost: usize,
    exchanges: Vec<Exchange>,
}

/// Freezes so many leaders of a fleet of so many computes. None where there is no PostgreSQL.
pub async fn measure(computes: usize, n: usize) -> Option<Measured<Sigstop>> {
    let bed = Bed::make("sigstop", MEMBERS, computes).await?;
    let mut rounds = Vec::with_capacity(n);
    for _ in 0..n {
        rounds.push(round(&bed).await);
        bed.warm().await;
    }
    let max = rounds.iter().filter_map(|round| round.ms).max_by(f64::total_cmp).map(rounded);
    let figures = Sigstop { n, lease_ms: ms(LEASE), ms: Longest { max } };
    let late: i64 = rounds.iter().map(|round| round.late).sum();
    let by_the_old: usize = rounds.iter().map(|round| round.by_the_old).sum();
    let lost: usize = rounds.iter().map(|round| round.lost).sum();
    let kinds = failures(rounds.iter().flat_map(|round| &round.exchanges));
    let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds };
    let notes = vec![
        format!(
            "After SIGCONT: {by_the_old} writes acknowledged in the old term, {late} changes of an old term in the journal \
             behind a new one, {} pushes of an old term at the agents; each must be 0.",
            bed.agents.stale_pushes()
        ),
        format!("SIGSTOP: {lost} acknowledged writes are not in the journal; what failed: {kinds}."),
    ];
    Some(Measured { figures, notes })
}

async fn round(bed: &Bed) -> Round {
    let (leader, term) = bed.leader().await;
    let old = &bed.members[leader];
    let lanes = Lane::spread(Kind::Write, &bed.others(leader), WIDTH, RATE);
    let load = Load::start(lanes, &bed.computes, &bed.tokens());
    load.executed(Kind::Write, Instant::now(), BEFORE).await;
    let stopped = Instant::now();
    old.process.freeze().await;
    load.executed(Kind::Write, stopped, AFTERWARDS).await;
    let successor = successor(bed, leader).await;
    old.process.thaw();
    let thawed = Instant::now();
    let endpoints = vec![old.url().to_owned()];
    let lane = Lane { kind: Kind::Write, endpoints, pace: Pace::BackToBack, keep_alive: true };
    let at_the_old = Load::start(vec![lane], &bed.computes, &bed.tokens());
    old.follows(&bed.members[successor], PATIENCE).await;
    at_the_old.executed(Kind::Write, thawed, AT_THE_OLD).await;
    let at_the_old = at_the_old.finish().await;
    let exchanges = load.finish().await;
    let journal = Journal::since(&bed.fleet, term).await;
    Round {
        ms: next_executed(&exchanges, &journal, stopped, term.get()),
        late: written_late(&bed.fleet, term).await,
        by_the_old: acknowledged_in(term, &journal, thawed, [&exchanges, &at_the_old]),
        lost: journal.lost(&exchanges) + journal.lost(&at_the_old),
        exchanges,
    }
}

/// The member that leads while this one is frozen, which cannot be asked.
async fn successor(bed: &Bed, frozen: usize) -> usize {
    pgfleet_harness::wait::wait_for("another member leads", PATIENCE, async || {
        for (index, member) in bed.members.iter().enumerate().filter(|(index, _)| *index != frozen) {
            if member.status().await.is_some_and(|status| status.role == pgfleet_api::controller::Role::Leader) {
                return Some(index);
            }
        }
        None
    })
    .await
}

/// Writes whose answers came after a moment and that this term executed.
fn acknowledged_in(term: Term, journal: &Journal, from: Instant, exchanges: [&Vec<Exchange>; 2]) -> usize {
    let writes = exchanges.into_iter().flatten().filter(|one| one.executed(Kind::Write) && one.ended > from);
    writes.filter(|write| journal.term_of(write) == Some(term.get())).count()
}
