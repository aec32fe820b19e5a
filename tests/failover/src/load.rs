//! Clients that write specs without pause through all members, and remember what they were told and when.
//!
//! They follow the retry rule that clients are given. A request that waits for a leader or a database and succeeds within
//! its deadline has not failed; how many had to wait is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgfleet_api::compute::SpecAccepted;
use pgfleet_api::{ComputeId, Generation, SpecHash};
use pgfleet_clients::controller::{CallRecord, ControllerClient, ControllerError, Options};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::patroni::PATIENCE;

/// Distance of two requests of one client, if the answers come faster.
const PACE: Duration = Duration::from_millis(20);

/// In which a request must have succeeded: longer than a dead primary's key lives.
const DEADLINE: Duration = Duration::from_secs(90);

/// One acknowledged write.
#[derive(Debug, Clone)]
pub struct Ack {
    /// Of which compute.
    pub id: ComputeId,
    /// What its client was told.
    pub told: SpecAccepted,
    /// When.
    pub at: Instant,
}

/// What the clients were told.
#[derive(Debug, Default)]
pub struct Book {
    /// Acknowledged writes, in the order of their answers.
    pub acks: Vec<Ack>,
    /// What failed in spite of the retry rule, by kind, with the first of its messages.
    pub failed: BTreeMap<&'static str, (usize, String)>,
    /// Requests that no member could execute at first.
    pub waited: usize,
}

/// A load under way; it ends with this value.
#[derive(Debug)]
pub struct Load {
    book: Arc<Mutex<Book>>,
    end: CancellationToken,
    clients: JoinSet<()>,
}

impl Load {
    /// A writer for each compute. Each begins at another member and forgets who led, so that every member is asked all
    /// the time.
    pub fn start(fleet: &Fleet, members: &[Controller], computes: &[ComputeId]) -> Self {
        let mut load = Self { book: Arc::default(), end: CancellationToken::new(), clients: JoinSet::new() };
        for (index, id) in computes.iter().enumerate() {
            let mut members: Vec<&Controller> = members.iter().collect();
            let count = members.len();
            members.rotate_left(index % count);
            let client = fleet.client_with(&members, options(&load.book));
            load.clients.spawn(write(client, id.clone(), load.book.clone(), load.end.clone()));
        }
        load
    }

    /// Waits until so many writes were acknowledged after `from`.
    pub async fn acknowledged(&self, from: Instant, count: usize) {
        let what = format!("{count} writes are acknowledged");
        wait_until(&what, PATIENCE, async || {
            lock(&self.book).acks.iter().rev().take_while(|ack| ack.at > from).count() >= count
        })
        .await;
    }

    /// The largest distance between two acknowledged writes since the last one before `from`.
    pub fn gap(&self, from: Instant) -> Duration {
        let book = lock(&self.book);
        largest_distance(book.acks.iter().map(|ack| ack.at), from)
    }

    /// When the first write after `from` was acknowledged.
    pub fn first_after(&self, from: Instant) -> Option<Instant> {
        lock(&self.book).acks.iter().map(|ack| ack.at).find(|at| *at > from)
    }

    /// Ends it after the requests under way.
    pub async fn finish(mut self) -> Book {
        self.end.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap_or_else(|error| panic!("a client of the load: {error}"));
        }
        std::mem::take(&mut *lock(&self.book))
    }
}

impl Book {
    /// Those that the database does not have: neither the generation nor its content may be another one.
    pub async fn lost(&self, fleet: &Fleet) -> Vec<String> {
        let sql = "SELECT compute_id, (detail->>'generation')::bigint, detail->>'spec_hash' FROM journal
                   WHERE kind = 'action' AND detail->>'spec_hash' IS NOT NULL";
        let rows = fleet.database().await.query(sql, &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("no journal: {error:?}"));
        let has: BTreeMap<(String, i64), String> =
            rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        missing(&self.acks, &has)
    }

    /// The newest generation of a compute and its content.
    #[must_use]
    pub fn newest(&self, id: &ComputeId) -> Option<(Generation, SpecHash)> {
        let own = self.acks.iter().filter(|ack| ack.id == *id);
        own.map(|ack| (ack.told.generation, ack.told.spec_hash.clone())).max_by_key(|(generation, _)| *generation)
    }
}

fn missing(acks: &[Ack], has: &BTreeMap<(String, i64), String>) -> Vec<String> {
    let there = |ack: &&Ack| {
        let hash = has.get(&(ack.id.to_string(), ack.told.generation.get()));
        hash.is_none_or(|hash| *hash != ack.told.spec_hash.to_string())
    };
    acks.iter().filter(there).map(|ack| format!("{} generation {}", ack.id, ack.told.generation)).collect()
}

fn largest_distance(answers: impl Iterator<Item = Instant>, from: Instant) -> Duration {
    let (mut before, mut largest) = (None, Duration::ZERO);
    for at in answers {
        if let Some(before) = before
            && at > from
        {
            largest = largest.max(at - before);
        }
        before = Some(at);
    }
    largest
}

fn options(book: &Arc<Mutex<Book>>) -> Options {
    let book = Arc::clone(book);
    let note = move |call: &CallRecord| {
        if call.pauses > 0 {
            lock(&book).waited += 1;
        }
    };
    Options { deadline: DEADLINE, remember_leader: false, on_call: Some(Arc::new(note)), ..Options::default() }
}

async fn write(client: ControllerClient, id: ComputeId, book: Arc<Mutex<Book>>, end: CancellationToken) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0.. {
        pace.tick().await;
        if end.is_cancelled() {
            return;
        }
        let result = client.put_spec(&id, &marked(&format!("{id}-{round}")), None).await;
        let mut book = lock(&book);
        match result {
            Ok(told) => book.acks.push(Ack { id: id.clone(), told, at: Instant::now() }),
            Err(error) => {
                let first = || (0, format!("PUT {id} round {round}: {error}"));
                book.failed.entry(kind(&error)).or_insert_with(first).0 += 1;
            }
        }
    }
}

fn kind(error: &ControllerError) -> &'static str {
    match error {
        ControllerError::Refused { .. } => "refused",
        ControllerError::NotAllowed { .. } => "not_allowed",
        ControllerError::Unavailable { .. } => "unavailable",
        ControllerError::OutcomeUnknown { .. } => "outcome_unknown",
        ControllerError::Garbled { .. } => "garbled",
        ControllerError::Token(_) => "no_token",
        ControllerError::Body(_) => "no_json",
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(generation: i64, hash: &str) -> Ack {
        let told = SpecAccepted {
            generation: Generation(generation),
            spec_hash: hash.repeat(64).parse().unwrap(),
            ignored_fields: Vec::new(),
        };
        Ack { id: "c1".parse().unwrap(), told, at: Instant::now() }
    }

    #[test]
    fn a_write_with_another_content_is_lost_as_well() {
        let has = [(("c1".to_owned(), 1), "a".repeat(64)), (("c1".to_owned(), 2), "b".repeat(64))].into();
        let acks = [ack(1, "a"), ack(2, "c"), ack(3, "a")];
        assert_eq!(missing(&acks, &has), ["c1 generation 2", "c1 generation 3"]);
    }

    #[test]
    fn the_gap_begins_with_the_last_answer_before_the_death() {
        let base = Instant::now();
        let at = |ms| base + Duration::from_millis(ms);
        let answers = [at(0), at(500), at(510), at(800), at(820)];
        assert_eq!(largest_distance(answers.into_iter(), at(600)), Duration::from_millis(290));
        assert_eq!(largest_distance(answers.into_iter(), at(900)), Duration::ZERO);
    }
}
