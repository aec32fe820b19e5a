//! Clients that write specs and read states without pause, and remember what they were told.
//!
//! They follow the retry rule that clients are given: a 503 is tried again on another member until a deadline. What fails
//! in spite of that is kept in words, and so is an answer that has less than was acknowledged before the question.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgfleet_api::compute::SpecAccepted;
use pgfleet_api::{ComputeId, Generation, SpecHash};
use pgfleet_clients::controller::{ControllerClient, Options};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::controller::Controller;
use crate::fleet::Fleet;
use crate::process::PATIENCE;
use crate::specs::marked;
use crate::wait::wait_until;

/// Distance of two requests of one client: a load, not a flood.
const PACE: Duration = Duration::from_millis(10);

/// What the clients were told.
#[derive(Debug, Default)]
struct Book {
    acknowledged: Vec<(ComputeId, SpecAccepted)>,
    reads: usize,
    failed: Vec<String>,
}

/// A load under way; it ends with this value.
#[derive(Debug)]
pub struct Load {
    book: Arc<Mutex<Book>>,
    end: CancellationToken,
    clients: JoinSet<()>,
}

/// What was acknowledged, in the order in which it was.
#[derive(Debug)]
pub struct Acknowledged(Vec<(ComputeId, SpecAccepted)>);

impl Load {
    /// A writer and a reader for each compute. Each begins at another member and forgets who led, so that every member is
    /// asked all the time.
    pub fn start(fleet: &Fleet, members: &[&Controller], computes: &[ComputeId]) -> Self {
        let mut load = Self { book: Arc::default(), end: CancellationToken::new(), clients: JoinSet::new() };
        for (index, id) in computes.iter().enumerate() {
            let mut members = members.to_vec();
            let count = members.len();
            members.rotate_left(index % count);
            let client = fleet.client_with(&members, Options { remember_leader: false, ..Options::default() });
            load.clients.spawn(write(client.clone(), id.clone(), load.book.clone(), load.end.clone()));
            load.clients.spawn(read(client, id.clone(), load.book.clone(), load.end.clone()));
        }
        load
    }

    /// Waits until that many more writes and reads have succeeded.
    pub async fn goes_on(&self, what: &str, count: usize) {
        let (writes, reads) = {
            let book = lock(&self.book);
            (book.acknowledged.len() + count, book.reads + count)
        };
        wait_until(what, PATIENCE, async || {
            let book = lock(&self.book);
            book.acknowledged.len() >= writes && book.reads >= reads
        })
        .await;
    }

    /// Ends it. Panics if a request failed in spite of the retry rule, or an answer had less than was acknowledged.
    pub async fn finish(mut self) -> Acknowledged {
        self.end.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap_or_else(|error| panic!("a client of the load: {error}"));
        }
        let book = std::mem::take(&mut *lock(&self.book));
        let (failed, told) = (book.failed, book.acknowledged);
        assert!(failed.is_empty(), "{} failed beside {} writes: {failed:#?}", failed.len(), told.len());
        Acknowledged(told)
    }
}

impl Acknowledged {
    /// Of each compute, the highest generation and its content.
    pub fn newest(&self) -> BTreeMap<ComputeId, (Generation, SpecHash)> {
        let mut newest: BTreeMap<ComputeId, (Generation, SpecHash)> = BTreeMap::new();
        for (id, accepted) in &self.0 {
            let told = (accepted.generation, accepted.spec_hash.clone());
            match newest.get_mut(id) {
                Some(known) if *known >= told => {}
                Some(known) => *known = told,
                None => drop(newest.insert(id.clone(), told)),
            }
        }
        newest
    }

    /// Every (compute, generation, hash) is in the journal, and no generation has two contents.
    pub async fn is_in_the_history(&self, fleet: &Fleet) {
        let sql = "SELECT compute_id, (detail->>'generation')::bigint, detail->>'spec_hash' FROM journal
                   WHERE kind = 'action' AND detail->>'spec_hash' IS NOT NULL";
        let rows = fleet.database().await.query(sql, &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("no journal: {error:?}"));
        let history: BTreeSet<(String, i64, String)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let counters: BTreeSet<(&str, i64)> =
            history.iter().map(|(id, generation, _)| (id.as_str(), *generation)).collect();
        assert_eq!(counters.len(), history.len(), "a generation has two contents: {history:?}");
        let line =
            |id: &ComputeId, told: &SpecAccepted| (id.to_string(), told.generation.get(), told.spec_hash.to_string());
        let lost: Vec<_> = self.0.iter().filter(|(id, told)| !history.contains(&line(id, told))).collect();
        assert!(lost.is_empty(), "acknowledged and not in the history: {lost:?}");
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(client: ControllerClient, id: ComputeId, book: Arc<Mutex<Book>>, end: CancellationToken) {
    let mut pace = tokio::time::interval(PACE);
    for round in 0.. {
        pace.tick().await;
        if end.is_cancelled() {
            return;
        }
        let result = client.put_spec(&id, &marked(&format!("{id}-{round}")), None).await;
        let mut book = lock(&book);
        match result {
            Ok(told) => book.acknowledged.push((id.clone(), told)),
            Err(error) => book.failed.push(format!("PUT {id} round {round}: {error}")),
        }
    }
}

async fn read(client: ControllerClient, id: ComputeId, book: Arc<Mutex<Book>>, end: CancellationToken) {
    let mut pace = tokio::time::interval(PACE);
    loop {
        pace.tick().await;
        if end.is_cancelled() {
            return;
        }
        let told = lock(&book).acknowledged.iter().rev().find(|(of, _)| *of == id).map(|(_, told)| told.generation);
        let result = client.get(&id).await;
        let mut book = lock(&book);
        match result {
            Ok(view) if Some(view.generation) >= told => book.reads += 1,
            Ok(view) => book.failed.push(format!("GET {id} gave {} after {told:?} was acknowledged", view.generation)),
            Err(error) => book.failed.push(format!("GET {id}: {error}")),
        }
    }
}
