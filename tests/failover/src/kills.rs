//! Synchronous replication: the primary dies again and again under load, and nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgfleet_api::Term;
use pgfleet_bench::ms;

use crate::bed::Bed;
use crate::floor;
use crate::load::{Book, Load};
use crate::patroni::{Death, Replication};

/// One primary, one standby that commits wait for, one that can be that when the first one has taken over.
const NODES: usize = 3;

/// Writes before a death, and after it: more than can be under way, so that most are the new primary's.
const WRITES: usize = 40;

/// One death.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Of what.
    pub death: Death,
    /// The largest distance of two acknowledged writes around it.
    pub gap_ms: f64,
    /// From the signal to the first commit of a client that does nothing else.
    pub patroni_ms: f64,
    /// From that to the next acknowledged write.
    pub beyond_ms: f64,
    /// Whether another leadership came of it.
    pub changed: bool,
}

/// What came of all of them.
#[derive(Debug)]
pub struct Killed {
    /// Each, in order.
    pub rounds: Vec<Round>,
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Acknowledged writes that the database does not have.
    pub lost: Vec<String>,
    /// Leaderships after the first.
    pub leader_changes: i64,
    /// What failed in spite of the retry rule, by kind: how often, and the first message.
    pub failed: BTreeMap<&'static str, (usize, String)>,
    /// Requests that had to wait and then succeeded.
    pub waited: usize,
}

/// Kills the primary once for each of these. None, with a line that says so, where a program is missing. Panics if a
/// member ends, leadership or the agent does not come back, or terms do not grow.
pub async fn measure(name: &str, deaths: &[Death]) -> Option<Killed> {
    let mut bed = Bed::make(name, NODES, Replication::Synchronous).await?;
    floor::prepare(&bed.patroni).await;
    let load = Load::start(&bed.fleet, &bed.members, &bed.computes);
    let mut rounds = Vec::with_capacity(deaths.len());
    for death in deaths {
        let done = round(&mut bed, &load, *death).await;
        eprintln!("{done:?}");
        rounds.push(done);
    }
    let book = load.finish().await;
    let (_, last) = bed.one_leader().await;
    converges(&bed, &book).await;
    Some(Killed {
        rounds,
        acknowledged: book.acks.len(),
        lost: book.lost(&bed.fleet).await,
        leader_changes: changes(&bed, last).await,
        failed: book.failed,
        waited: book.waited,
    })
}

async fn round(bed: &mut Bed, load: &Load, death: Death) -> Round {
    let (_, before) = bed.one_leader().await;
    load.acknowledged(Instant::now(), WRITES).await;
    let primary = bed.patroni.leader().await;
    let killed = Instant::now();
    bed.patroni.kill(primary, death).await;
    let written = floor::first_write(&bed.patroni).await;
    load.acknowledged(written, WRITES).await;
    let beyond = load.first_after(written).map_or(Duration::ZERO, |at| at - written);
    let gap = load.gap(killed);
    bed.patroni.revive(primary);
    bed.patroni.whole(Replication::Synchronous).await;
    let (_, after) = bed.one_leader().await;
    assert!(after >= before, "the term went back from {before} to {after}");
    Round { death, gap_ms: ms(gap), patroni_ms: ms(written - killed), beyond_ms: ms(beyond), changed: after != before }
}

/// The agent has what was acknowledged last.
async fn converges(bed: &Bed, book: &Book) {
    let Some((generation, hash)) = book.newest(&bed.agent.id) else { panic!("nothing was written for the agent") };
    let status = bed.agent.runs(generation).await;
    assert_eq!(status.spec_hash, Some(hash), "the agent has another content");
}

/// How many leaderships came after the first. Their terms grow, and the last is the one that leads.
async fn changes(bed: &Bed, last: Term) -> i64 {
    let terms: Vec<i64> = bed.fleet.history().await.iter().map(|(term, ..)| *term).collect();
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    assert_eq!(terms.last(), Some(&last.get()), "{terms:?}");
    i64::try_from(terms.len()).unwrap_or(i64::MAX) - 1
}
