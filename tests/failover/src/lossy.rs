//! Asynchronous replication, on purpose: the primary dies with commits that its standby never got, a change of leader
//! among them. What was lost must be found, said and counted, and the fleet must obey again.

use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_api::agent::AgentStatus;
use pgfleet_api::auth::Scope;
use pgfleet_domain::spec::spec_hash;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_for;
use rustix::process::{Signal, kill_process};
use serde::Serialize;

use crate::bed::Bed;
use crate::load::{Ack, Book};
use crate::patroni::{Death, PATIENCE, Replication};

/// A primary, and a standby that lags behind.
const NODES: usize = 2;

/// Writes of each lost leadership.
const WRITES: usize = 10;

/// How long it may take until a spec is in effect, the controllers' own recovery included.
const APPLYING: Duration = Duration::from_secs(60);

const LOST: &str = "storage_controller_lost_commits_total";

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lossy {
    /// Acknowledged writes that the new primary never had.
    pub lost_commits: usize,
    /// Leaderships that it never had.
    pub lost_terms: i64,
    /// What the members' counter of lost commits says.
    pub detected: u64,
    /// The controllers' own lines about it in the journal.
    pub journalled: i64,
    /// The agent applied what was asked for afterwards, under a term above the lost one, also when the old primary was back.
    pub governable: bool,
}

/// One death of a primary whose standby was held back. None, with a line that says so, where a program is missing.
pub async fn measure(name: &str) -> Option<Lossy> {
    let mut bed = Bed::make(name, NODES, Replication::Asynchronous).await?;
    let primary = bed.patroni.leader().await;
    let standby = (primary + 1) % NODES;
    put_and_applied(&bed, "before").await;

    let receiver = bed.patroni.receiver(standby).await;
    bed.patroni.has_all(standby).await;
    signal(receiver, Signal::STOP);
    let (_, kept) = bed.one_leader().await;
    let mut book = Book::default();
    write(&bed, &mut book, "first").await;
    let (leader, _) = bed.one_leader().await;
    hand_over(&bed, (leader + 1) % bed.members.len()).await;
    let (_, lost_term) = bed.one_leader().await;
    assert!(lost_term > kept, "no leadership could be lost");
    write(&bed, &mut book, "second").await;
    put_and_applied(&bed, "lost").await;

    bed.patroni.kill(primary, Death::Node).await;
    // What lies in its socket must not be read any more; the standby starts again with what it had written.
    signal(receiver, Signal::KILL);
    drop(bed.patroni.primary("postgres").await);
    bed.patroni.leads(standby).await;

    let (_, term) = bed.above(lost_term).await;
    let lost_commits = book.lost(&bed.fleet).await.len();
    let after = obeys_above(&bed, "after", lost_term).await;
    bed.patroni.revive(primary);
    bed.patroni.whole(Replication::Asynchronous).await;
    let whole_again = obeys_above(&bed, "whole", lost_term).await;
    let (_, now) = bed.one_leader().await;
    assert!(now >= term, "the term went back from {term} to {now}");
    Some(Lossy {
        lost_commits,
        lost_terms: lost_term.get() - kept.get(),
        detected: whole(bed.count(LOST).await),
        journalled: journalled(&bed).await,
        governable: after && whole_again,
    })
}

/// New specs for all computes, without waiting for agents.
async fn write(bed: &Bed, book: &mut Book, what: &str) {
    let client = bed.client();
    for (round, id) in bed.computes.iter().cycle().take(WRITES).enumerate() {
        let told = client.put_spec(id, &marked(&format!("{what}-{round}")), None).await;
        let told = told.unwrap_or_else(|error| panic!("{id}: {error}"));
        book.acks.push(Ack { id: id.clone(), told, at: std::time::Instant::now() });
    }
}

/// Whether the agent comes to run a new spec under a term above this one.
async fn obeys_above(bed: &Bed, mark: &str, lost: Term) -> bool {
    let applied = tokio::time::timeout(APPLYING, put_and_applied(bed, mark)).await;
    applied.is_ok_and(|status| status.term > Some(lost))
}

/// A new spec for the agent's compute; waits until the agent runs its content, under whichever generation.
async fn put_and_applied(bed: &Bed, mark: &str) -> AgentStatus {
    let id = &bed.agent.id;
    let told = bed.client().put_spec(id, &marked(mark), None).await;
    told.unwrap_or_else(|error| panic!("{id}: {error}"));
    let hash = spec_hash(&marked(mark));
    let what = format!("the content {mark}");
    let has = |status: &AgentStatus| {
        status.spec_hash.as_ref() == Some(&hash) && status.applied_generation == status.generation
    };
    bed.agent.shows(&what, APPLYING, has).await
}

async fn hand_over(bed: &Bed, to: usize) {
    let call = bed.members[to].call("POST", "/control/v1/take_over").token(&bed.fleet.keys().scope(Scope::Admin));
    let answer = call.send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn journalled(bed: &Bed) -> i64 {
    let sql = "SELECT count(*) FROM journal WHERE kind = 'action' AND actor = 'controller'
               AND reason IN ('lost_commits', 'lost_commit')";
    wait_for("the journal can be read", PATIENCE, async || {
        let database = bed.fleet.database().await;
        Some(database.query_one(sql, &[]).await.ok()?.get(0))
    })
    .await
}

fn signal(pid: rustix::process::Pid, signal: Signal) {
    kill_process(pid, signal).unwrap_or_else(|error| panic!("no signal to a receiver: {error}"));
}

/// A counter.
fn whole(value: f64) -> u64 {
    format!("{value:.0}").parse().unwrap_or_default()
}

impl Lossy {
    /// What must not be.
    pub fn broken(&self) -> impl Iterator<Item = &'static str> {
        let nothing = (self.lost_commits == 0).then_some("the new primary has every commit: the run proves nothing");
        let term = (self.lost_terms < 1).then_some("no leadership was lost: the run proves nothing");
        let unseen = (self.detected == 0).then_some("lost commits were not counted");
        let unsaid = (self.journalled == 0).then_some("lost commits are not in the journal");
        let ungoverned = (!self.governable).then_some("the fleet is not governable");
        [nothing, term, unseen, unsaid, ungoverned].into_iter().flatten()
    }
}
