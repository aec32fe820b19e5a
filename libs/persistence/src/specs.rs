//! The bodies of specs: read when they are needed, kept for a while, shared by their content.
//!
//! Called by: [`Database::spec_text`], and the writer, which keeps what it has just committed. What it calls: the pool.
//!
//! Why the memory of a controller holds no bodies: 100,000 of them are most of what a member would have to read before it
//! can lead, and most of what it would have to keep, twice during a hand-over. They are needed for pushes, and a leader
//! may push only while the database proves its lease, so a body that is read then is there. What is pushed soon after it
//! was written, which is nearly all, is in the store; for the rest whoever asks at the same time is served by one statement.
//!
//! Invariants: a text is given only for the hash that it belongs to; computes with the same content share one text; the
//! store holds at most [`KEEP_BYTES`], however large the fleet is; nothing here is a copy of the truth, so nothing has to be
//! thrown away when leadership changes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};
use diesel_async::RunQueryDsl;
use pgfleet_api::{ComputeId, SpecHash, SpecText};
use tokio::sync::{Semaphore, oneshot};

use crate::database::Database;
use crate::error::DbError;
use crate::schema::computes;

/// Bytes of texts that are kept.
const KEEP_BYTES: usize = 64 << 20;
/// What an entry costs beside its text.
const ENTRY_BYTES: usize = 160;
/// Bodies that one statement reads; each may have 4 MiB.
const AT_ONCE: usize = 32;
const DOING: &str = "read specs";

type Found = HashMap<String, (Option<String>, Option<String>)>;

/// Texts by hash, in two generations: what is used moves to the young one, and the old one goes when that is full.
#[derive(Debug)]
struct Shelf {
    young: HashMap<SpecHash, SpecText>,
    old: HashMap<SpecHash, SpecText>,
    young_bytes: usize,
    limit_bytes: usize,
}

impl Shelf {
    fn new(limit_bytes: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, limit_bytes }
    }

    fn get(&mut self, hash: &SpecHash) -> Option<SpecText> {
        if let Some(text) = self.young.get(hash) {
            return Some(text.clone());
        }
        let text = self.old.remove(hash)?;
        self.put(hash.clone(), text.clone());
        Some(text)
    }

    fn put(&mut self, hash: SpecHash, text: SpecText) {
        let bytes = text.len() + ENTRY_BYTES;
        if bytes > self.limit_bytes / 2 || self.young.contains_key(&hash) {
            return;
        }
        if self.young_bytes + bytes > self.limit_bytes / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old.remove(&hash);
        self.young_bytes += bytes;
        self.young.insert(hash, text);
    }
}

/// What the statement said; nothing if it failed.
type Answer = Result<Option<SpecText>, Failed>;

/// The statement that served many has failed; whoever ran it has the cause.
#[derive(Debug)]
struct Failed;

impl From<Failed> for DbError {
    fn from(_: Failed) -> Self {
        Self::Pool { doing: DOING, reason: "the statement for all who asked has failed".to_owned() }
    }
}

/// Somebody who waits for a body.
struct Wanted {
    compute_id: ComputeId,
    hash: SpecHash,
    answer: oneshot::Sender<Answer>,
}

/// The store of a [`Database`].
pub(crate) struct Specs {
    shelf: Mutex<Shelf>,
    wanted: Mutex<Vec<Wanted>>,
    /// One statement at a time, so that whoever asks meanwhile shares the next one.
    reading: Semaphore,
}

impl Specs {
    pub(crate) fn new() -> Self {
        Self { shelf: Mutex::new(Shelf::new(KEEP_BYTES)), wanted: Mutex::new(Vec::new()), reading: Semaphore::new(1) }
    }

    /// A panic between two plain assignments leaves a shelf that is whole.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> MutexGuard<'_, Vec<Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a text that was just committed.
    pub(crate) fn keep(&self, hash: &SpecHash, text: &SpecText) {
        self.shelf().put(hash.clone(), text.clone());
    }
}

impl Database {
    /// The text of the spec that a compute has under this hash; `None` if it has another one by now, or none.
    ///
    /// # Errors
    /// Any [`DbError`]. A text that is in the store needs no database.
    pub async fn spec_text(&self, compute_id: &ComputeId, hash: &SpecHash) -> Result<Option<SpecText>, DbError> {
        let specs = self.specs();
        loop {
            if let Some(text) = specs.shelf().get(hash) {
                return Ok(Some(text));
            }
            let (answer, mut answered) = oneshot::channel();
            specs.wanted().push(Wanted { compute_id: compute_id.clone(), hash: hash.clone(), answer });
            // It is never closed; whoever holds it reads for all.
            let _turn = specs.reading.acquire().await;
            match answered.try_recv() {
                Ok(answer) => return Ok(answer?),
                Err(oneshot::error::TryRecvError::Empty) => {}
                // Whoever took it along was cut off: it is asked for once more.
                Err(oneshot::error::TryRecvError::Closed) => continue,
            }
            // Those before us in the list may fill a statement, and we stay in it.
            loop {
                let some: Vec<Wanted> = {
                    let mut wanted = specs.wanted();
                    let count = wanted.len().min(AT_ONCE);
                    wanted.drain(..count).filter(|one| !one.answer.is_closed()).collect()
                };
                self.answer(some).await?;
                match answered.try_recv() {
                    Ok(answer) => return Ok(answer?),
                    Err(oneshot::error::TryRecvError::Empty) => {}
                    Err(oneshot::error::TryRecvError::Closed) => break,
                }
            }
        }
    }

    async fn answer(&self, wanted: Vec<Wanted>) -> Result<(), DbError> {
        let found = match self.read_texts(&wanted).await {
            Ok(found) => found,
            Err(error) => {
                wanted.into_iter().for_each(|one| drop(one.answer.send(Err(Failed))));
                return Err(error);
            }
        };
        for one in wanted {
            let text = match found.get(one.compute_id.as_str()) {
                Some((Some(hash), Some(text))) if *hash == one.hash.as_str() => Some(SpecText::from_json(text)),
                _ => None,
            };
            if let Some(text) = &text {
                self.specs().keep(&one.hash, text);
            }
            // Whoever asked may have gone away.
            drop(one.answer.send(Ok(text)));
        }
        Ok(())
    }

    /// Hash and text by compute.
    async fn read_texts(&self, wanted: &[Wanted]) -> Result<Found, DbError> {
        if wanted.is_empty() {
            return Ok(Found::new());
        }
        let mut conn = self.pooled(DOING).await?;
        let ids: Vec<&str> = wanted.iter().map(|one| one.compute_id.as_str()).collect();
        let rows: Vec<(String, Option<String>, Option<String>)> = computes::table
            .filter(computes::compute_id.eq_any(ids))
            .select((computes::compute_id, computes::spec_hash, sql::<Nullable<Text>>("spec::text")))
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        Ok(rows.into_iter().map(|(id, hash, text)| (id, (hash, text))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> SpecHash {
        format!("{n:064x}").parse().unwrap()
    }

    fn text(n: u8, len: usize) -> SpecText {
        SpecText::from_json(&format!("{{\"{n}\":\"{}\"}}", "x".repeat(len)))
    }

    #[test]
    fn the_shelf_is_bounded_and_keeps_what_is_used() {
        let mut shelf = Shelf::new(10 * (1000 + ENTRY_BYTES));
        for n in 0..200 {
            shelf.put(hash(n), text(n, 900));
            assert!(shelf.get(&hash(0)).is_some(), "it is used all the time, and lost at {n}");
            let held: usize = shelf.young.values().chain(shelf.old.values()).map(|text| text.len() + ENTRY_BYTES).sum();
            assert!(held <= shelf.limit_bytes, "{held} bytes at {n}");
        }
        assert!(shelf.get(&hash(1)).is_none(), "what nobody uses goes");
        assert!(shelf.get(&hash(199)).is_some());
    }

    #[test]
    fn one_text_per_content_and_none_that_fills_it() {
        let mut shelf = Shelf::new(4000);
        shelf.put(hash(1), text(1, 10));
        shelf.put(hash(1), text(1, 10));
        assert_eq!((shelf.young.len(), shelf.young_bytes), (1, text(1, 10).len() + ENTRY_BYTES));
        shelf.put(hash(2), text(2, 3000));
        assert!(shelf.get(&hash(2)).is_none() && shelf.get(&hash(1)).is_some());
    }
}
