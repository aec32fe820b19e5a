//! What other rooms hold of the memory: how far it is, and how a leadership borrows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use pgfleet_persistence::DbError;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Entry, Snapshot};

/// A memory that has not caught up for longer is not warm: one poll and a half.
const WARM_FOR: Duration = Duration::from_secs(3);

pub(super) enum Request {
    Take(oneshot::Sender<Result<Loan, DbError>>),
    Recall(oneshot::Sender<Recall>),
}

/// The memory, for a leadership. Dropping it says that what is in the map cannot be trusted.
#[derive(Debug)]
pub struct Loan {
    /// The map; the leadership's own from now on.
    pub snapshot: Snapshot,
    /// The last change that is in it.
    pub change_seq: i64,
    /// Whether it was there already and only the tail was read.
    pub warm: bool,
    pub(super) give_back: oneshot::Sender<i64>,
}

impl Loan {
    /// Gives the map back as it is in the database at this change, with nothing unsaved in it.
    pub fn give_back(self, change_seq: i64) {
        // The follower ends only with the process.
        let _ = self.give_back.send(change_seq);
    }
}

/// The whole memory at one moment.
#[derive(Debug)]
pub struct Recall {
    /// The last change that is in it.
    pub change_seq: i64,
    /// Every compute, by id.
    pub entries: Vec<Arc<Entry>>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// When it last caught up; nothing while it is cold or lent.
    caught_up: watch::Sender<Option<Instant>>,
    change_seq: AtomicI64,
    heard: AtomicI64,
    migrated: AtomicBool,
}

impl Shared {
    pub(super) fn caught_up(&self, change_seq: i64) {
        self.change_seq.store(change_seq, Ordering::SeqCst);
        self.caught_up.send_replace(Some(Instant::now()));
    }

    pub(super) fn cold(&self) {
        self.caught_up.send_replace(None);
    }

    pub(super) fn heard(&self, change_seq: i64) {
        self.heard.fetch_max(change_seq, Ordering::SeqCst);
    }

    pub(super) fn told_again(&self, change_seq: i64) {
        self.heard.store(change_seq, Ordering::SeqCst);
    }

    pub(super) fn migrated(&self) {
        self.migrated.store(true, Ordering::SeqCst);
    }

    /// Changes that were told of and are not taken in.
    pub(super) fn lag(&self) -> i64 {
        (self.heard.load(Ordering::SeqCst) - self.change_seq.load(Ordering::SeqCst)).max(0)
    }

    fn age(&self) -> Option<Duration> {
        self.caught_up.borrow().map(|at| at.elapsed())
    }
}

/// The handle of the memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

impl Memory {
    pub(super) fn new(requests: mpsc::Sender<Request>, shared: Arc<Shared>) -> Self {
        Self { requests, shared }
    }

    /// Borrows the memory for a leadership that was just claimed: brought to what is committed now, or loaded.
    ///
    /// # Errors
    /// Any [`DbError`] of the database.
    pub async fn take(&self) -> Result<Loan, DbError> {
        let (answer, answered) = oneshot::channel();
        let gone = || DbError::SessionEnded { doing: "took the memory over" };
        self.requests.send(Request::Take(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// What is in it; nothing while this member leads or is cold. A walk over the fleet, for tests.
    pub async fn recall(&self) -> Option<Recall> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Recall(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Whether this member follows and has caught up a moment ago.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.age().is_some_and(|age| age < WARM_FOR)
    }

    /// Returns when it is warm for the first time, or when `limit` is over.
    pub async fn warmed(&self, limit: Duration) {
        let mut caught_up = self.shared.caught_up.subscribe();
        // Either end is fine: a member that is cold works, only slower.
        let _ = tokio::time::timeout(limit, caught_up.wait_for(Option::is_some)).await;
    }

    /// Time since the last catch-up; nothing while this member leads or is cold.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.shared.age()
    }

    /// The last change that is in it; while this member leads, that of its beginning.
    #[must_use]
    pub fn change_seq(&self) -> i64 {
        self.shared.change_seq.load(Ordering::SeqCst)
    }

    /// Whether all migrations of this program were seen to have run. A schema only moves forward, so it stays so.
    #[must_use]
    pub fn is_migrated(&self) -> bool {
        self.shared.migrated.load(Ordering::SeqCst)
    }
}
