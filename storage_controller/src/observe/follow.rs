//! The memory of a member that does not lead: it follows the database, so that taking over reads only what came last.
//!
//! One task ([`Follower`]) owns the map, the cursor and the session; others hold a [`Memory`]. A leadership borrows the map
//! ([`Memory::take`]) and gives it back with the writer's last change; if it cannot, the loan is simply dropped.
//!
//! ```text
//!            all migrations have run          take: one catch-up, then lent
//!   cold ───────── load ─────────▶ warm ─────────────────────────▶ lent
//!     ▲                             │ ▲                              │
//!     └── load afresh, see `Tail` ──┘ └──── given back at a change ──┤
//!     └──────────────────────── dropped: not all of it was saved ────┘
//! ```
//!
//! Called by: `app`, which runs the task and lends the memory. What it calls: persistence. Invariants: at its cursor the
//! memory equals a fresh load; it is shown to nobody while it follows; NOTIFY only wakes, every catch-up reads by cursor.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_persistence::{CHANGE_CHANNEL, Caught, Database, DbError, MigrationError, Notice, Notices, Tail};
use pgfleet_runtime::exit::chain;
use pgfleet_runtime::queue::refuse_rest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::memory::{Loan, Memory, Recall, Request, Shared};
use super::{FollowerMetrics, Snapshot};

/// A catch-up is made this often without any nudge.
const POLL: Duration = Duration::from_secs(2);
/// Shortest time between two catch-ups: under a load of writes many nudges are one.
const SPACING: Duration = Duration::from_millis(25);
/// After a failure, and while migrations are pending.
const AGAIN: Duration = Duration::from_millis(500);
/// Computes tidied in one step after a leadership.
const PAGE: usize = 256;
/// Between two such steps: right after a hand-over the processors belong to whoever has waited for it.
const PACE: Duration = Duration::from_millis(2);

/// Is told that the database has lost changes: what was known, and what is there.
pub type OnLost = Arc<dyn Fn(i64, i64) + Send + Sync>;

/// Listens to how far the memory is.
pub type OnReached = Arc<dyn Fn(i64) + Send + Sync>;

enum Hold {
    Cold,
    Warm { snapshot: Snapshot, cursor: i64 },
    Lent { snapshot: Snapshot, back: oneshot::Receiver<i64> },
}

/// The task's state.
pub struct Follower {
    database: Arc<Database>,
    requests: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
    metrics: Arc<FollowerMetrics>,
    /// Is told of every change that the memory has reached.
    on_reached: Option<OnReached>,
    /// Is told of changes that the database has lost.
    on_lost: Option<OnLost>,
    /// The last change that was in the memory.
    known: i64,
    tail: Tail,
    notices: Option<Notices>,
    hold: Hold,
    due: Instant,
    /// When the last catch-up ended.
    last: Instant,
    /// The last try failed.
    failing: bool,
    /// Whose troubles of the last leadership are still to be forgotten: all after this one.
    tidy: Option<Option<ComputeId>>,
}

impl Follower {
    /// The task and its handle. It follows once all migrations of this build have run: an older schema may be one that it
    /// cannot read.
    #[must_use]
    pub fn new(database: Arc<Database>, metrics: Arc<FollowerMetrics>) -> (Self, Memory) {
        let (ask, requests) = mpsc::channel(8);
        let shared = Arc::new(Shared::default());
        let memory = Memory::new(ask, shared.clone());
        let now = Instant::now();
        let follower = Self {
            on_reached: None,
            on_lost: None,
            known: 0,
            tail: Tail::new(database.clone()),
            database,
            requests,
            shared,
            metrics,
            notices: None,
            hold: Hold::Cold,
            due: now,
            last: now,
            failing: false,
            tidy: None,
        };
        (follower, memory)
    }

    /// Has `listener` told of every change that the memory has reached.
    #[must_use]
    pub fn on_reached(mut self, listener: OnReached) -> Self {
        self.on_reached = Some(listener);
        self
    }

    /// Has `listener` told of changes that the database has lost.
    #[must_use]
    pub fn on_lost(mut self, listener: OnLost) -> Self {
        self.on_lost = Some(listener);
        self
    }

    fn reached(&mut self, change_seq: i64) {
        self.known = change_seq;
        self.shared.caught_up(change_seq);
        self.metrics.at(change_seq, self.shared.lag());
        if let Some(listener) = &self.on_reached {
            listener(change_seq);
        }
    }

    /// Follows until `token` is cancelled.
    ///
    /// # Errors
    /// Never; the type is what a task has. What the database refuses is logged and tried again.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), std::convert::Infallible> {
        self.follow(&token).await;
        refuse_rest(self.requests).await;
        Ok(())
    }

    async fn follow(&mut self, token: &CancellationToken) {
        loop {
            let lent = matches!(self.hold, Hold::Lent { .. });
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                back = came_back(&mut self.hold) => self.regain(back),
                request = self.requests.recv() => match request {
                    Some(request) => tokio::select! {
                        () = token.cancelled() => return,
                        () = self.serve(request) => {}
                    },
                    None => {
                        token.cancelled().await;
                        return;
                    }
                },
                notice = heard(&mut self.notices) => self.nudged(notice),
                () = tokio::time::sleep_until(self.due), if !lent => tokio::select! {
                    () = token.cancelled() => return,
                    () = self.advance() => {}
                },
                () = tokio::time::sleep(PACE), if self.tidy.is_some() && !lent => self.tidy_up(),
            }
        }
    }

    fn nudged(&mut self, notice: Option<Notice>) {
        let Some(mut notice) = notice else {
            // The session has ended; the next catch-up listens again.
            self.notices = None;
            return;
        };
        loop {
            if let Ok(change_seq) = notice.payload.parse() {
                self.shared.heard(change_seq);
            }
            let Some(next) = self.notices.as_mut().and_then(Notices::try_next) else { break };
            notice = next;
        }
        if matches!(self.hold, Hold::Warm { .. }) {
            self.metrics.lag(self.shared.lag());
            self.due = self.due.min(self.last + SPACING);
        }
    }

    /// The leadership is over: its map is the memory again, or what it left cannot be trusted.
    fn regain(&mut self, back: Option<i64>) {
        self.due = Instant::now();
        let Hold::Lent { snapshot, .. } = std::mem::replace(&mut self.hold, Hold::Cold) else { return };
        match back {
            Some(cursor) => {
                tracing::debug!(change_seq = cursor, "the memory is given back");
                self.tidy = Some(None);
                self.known = cursor;
                self.hold = Hold::Warm { snapshot, cursor };
            }
            None => tracing::info!("not everything of the leadership was saved: the memory is loaded afresh"),
        }
    }

    fn tidy_up(&mut self) {
        self.tidy = match (&self.hold, self.tidy.take()) {
            (Hold::Warm { snapshot, .. }, Some(after)) => snapshot.forget_trouble(after.as_ref(), PAGE).map(Some),
            _ => None,
        };
    }

    async fn advance(&mut self) {
        let pause = match self.step().await {
            Ok(followed) => {
                self.failing = false;
                if followed { POLL } else { AGAIN }
            }
            Err(error) => {
                self.metrics.failed();
                // Said once; the metrics tell how long it lasts.
                if std::mem::replace(&mut self.failing, true) {
                    tracing::debug!(error = %chain(&error), "still cannot follow the database");
                } else {
                    tracing::warn!(error = %chain(&error), "cannot follow the database; tried again");
                }
                AGAIN
            }
        };
        self.last = Instant::now();
        self.due = self.last + pause;
    }

    /// One catch-up or load. `false`: this program may not, or not yet, read the schema.
    async fn step(&mut self) -> Result<bool, DbError> {
        if matches!(self.hold, Hold::Cold) && !self.may_load().await? {
            return Ok(false);
        }
        if self.notices.is_none() {
            // Before the read, so that nothing committed after it is missed.
            self.notices = Some(self.database.listen(&[CHANGE_CHANNEL]).await?);
        }
        match self.catch_up().await {
            Ok(true) => {}
            // Another schema may be one that this program must not read.
            Ok(false) if !self.may_load().await? => return Ok(false),
            Ok(false) => self.load().await?,
            Err(error) => {
                if !error.is_retryable() {
                    self.forget();
                }
                return Err(error);
            }
        }
        if let Err(error) = self.database.warm_up().await {
            tracing::warn!(%error, "no session is ready for a leadership; its first write takes longer");
        }
        Ok(true)
    }

    async fn may_load(&self) -> Result<bool, DbError> {
        let compat = self.database.compat().await?;
        let number = self.database.release().number();
        if !compat.is_some_and(|compat| compat.lets_read(number)) {
            return Ok(false);
        }
        match self.database.nothing_pending().await {
            Ok(true) => {
                self.shared.migrated();
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(MigrationError::Database(error)) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot tell which migrations are pending; tried again");
                Ok(false)
            }
        }
    }

    fn forget(&mut self) {
        self.hold = Hold::Cold;
        self.shared.cold();
    }

    /// Takes in what came last. `false`: there is nothing that could be followed on.
    async fn catch_up(&mut self) -> Result<bool, DbError> {
        let Hold::Warm { snapshot, cursor } = &mut self.hold else { return Ok(false) };
        match self.tail.catch_up(*cursor).await? {
            Caught::News(news) => {
                self.metrics.caught_up(news.items.len());
                snapshot.take_in(news.items);
                *cursor = news.change_seq;
                self.reached(news.change_seq);
                Ok(true)
            }
            Caught::Afresh(why) => {
                tracing::warn!(why = why.as_str(), change_seq = *cursor, "what was loaded is stale: loaded afresh");
                self.forget();
                Ok(false)
            }
        }
    }

    async fn load(&mut self) -> Result<(), DbError> {
        self.forget();
        let begun = Instant::now();
        let loaded = self.tail.load().await?;
        let (cursor, count) = (loaded.change_seq, loaded.computes.len());
        self.metrics.loaded(count + loaded.observed.len());
        let snapshot = Snapshot::loaded(loaded.computes, loaded.observed);
        self.hold = Hold::Warm { snapshot, cursor };
        if let Some(listener) = self.on_lost.as_ref().filter(|_| cursor < self.known) {
            listener(self.known, cursor);
        }
        // What was told of before may have been lost by the database.
        self.shared.told_again(cursor);
        self.reached(cursor);
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(change_seq = cursor, computes = count, duration_ms, "the state is loaded");
        Ok(())
    }

    /// The memory as of now, for a leadership: it has claimed, so it may read. `true`: a catch-up was enough.
    async fn refresh(&mut self) -> Result<bool, DbError> {
        let warm = self.catch_up().await?;
        if !warm {
            self.load().await?;
        }
        Ok(warm)
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Take(answer) => {
                let outcome = self.lend().await;
                match outcome {
                    Ok((loan, hold)) => {
                        // Whoever asked may have given up; then nothing was lent.
                        if answer.send(Ok(loan)).is_ok() {
                            self.shared.cold();
                            self.metrics.lag(0);
                            self.hold = hold;
                        }
                    }
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Request::Recall(answer) => {
                let Hold::Warm { snapshot, cursor } = &self.hold else { return };
                let recall = Recall {
                    change_seq: *cursor,
                    entries: snapshot.page(&super::Filter::default(), None, usize::MAX).0,
                };
                drop(answer.send(recall));
            }
        }
    }

    async fn lend(&mut self) -> Result<(Loan, Hold), DbError> {
        let warm = match self.refresh().await {
            Ok(warm) => warm,
            Err(error) => {
                // The session may have been lost while nobody used it, or its statements be those of an older schema.
                tracing::warn!(error = %chain(&error), "the memory is read once more");
                if !error.is_retryable() {
                    self.forget();
                }
                self.refresh().await?
            }
        };
        self.last = Instant::now();
        let Hold::Warm { snapshot, cursor } = &self.hold else {
            return Err(DbError::SessionEnded { doing: "took the memory over" });
        };
        let (give_back, back) = oneshot::channel();
        let loan = Loan { snapshot: snapshot.clone(), change_seq: *cursor, warm, give_back };
        Ok((loan, Hold::Lent { snapshot: snapshot.clone(), back }))
    }
}

/// Waits for the end of the leadership that has the memory; `None`: it does not give it back.
async fn came_back(hold: &mut Hold) -> Option<i64> {
    match hold {
        Hold::Lent { back, .. } => back.await.ok(),
        Hold::Cold | Hold::Warm { .. } => std::future::pending().await,
    }
}

async fn heard(notices: &mut Option<Notices>) -> Option<Notice> {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}
