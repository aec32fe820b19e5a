//! The writer's loop: takes what has queued, writes it, answers, and knows what to do when that does not go well.
//!
//! Called by: the leader value, as one of its tasks. What it calls: `batch`, on one connection of its own. Over 500 lines,
//! because the ways back from an error lead through all of it.
//!
//! What can go wrong, and what follows:
//! - The fence finds no row: `NotLeader` to everybody, for ever after.
//! - A value is refused (classes 22, 23): the batch is halved until the culprit stands alone.
//! - 40001, 40P01, lock or statement timeout, connection lost before COMMIT was sent: not executed; tried again with
//!   jitter, on a new connection if need be, for as long as a lease, else `Unavailable`.
//! - Connection lost at COMMIT: in *doubt*. On a new connection, under the fence, the cursor row is locked, which
//!   waits for the old backend to end; where the cursor stands then tells whether it committed, and everything above our
//!   last change is read again, so that memory gets what is there. Nothing else is written before that. Callers wait for a lease, then get `OutcomeUnknown`; `on_commit` still hears of it later.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::batch::{BEGIN, Rows, Wire};
use super::plan::Planned;
use super::{Batch, Committed, Item, Position, WriteError, WriterHooks};
use crate::database::Database;
use crate::error::{DbError, ErrorClass};
use crate::follow::{Item as Above, above};
use crate::lease::bounded;
use crate::term::LeaderTerm;

/// Most changes in one transaction.
pub(super) const BATCH_CHANGES: usize = 512;
/// Most bytes of specs in one transaction, but for a single larger one.
const BATCH_BYTES: usize = 8 << 20;

/// `idle_in_transaction_session_timeout` ended the session.
const IDLE_IN_TRANSACTION: &str = "25P03";

/// A pause between a batch's last statement and its COMMIT that only a process that stood still has: the server ends an
/// idle transaction after a quarter of a lease, which is longer.
const FROZEN: Duration = Duration::from_millis(100);

type Answers = Vec<Result<Committed, WriteError>>;

/// A transaction whose COMMIT was sent and not answered.
struct Doubt {
    /// Where the cursor stands if it committed.
    last: i64,
    /// What it answers then.
    answers: Answers,
}

/// Why a batch did not go through.
enum Trouble {
    /// The fence found no row.
    NotLeader,
    /// PostgreSQL refuses a value of it.
    Refused { sqlstate: String, msg: String },
    /// Not executed; may be tried again.
    Retry(DbError),
    /// Sent, not answered; `self.doubt` has it.
    InDoubt,
    /// The writer cannot go on.
    Fatal(DbError),
}

/// The task behind a [`super::Writer`]. It alone holds the `LeaderTerm`, and lets it go when `run` returns.
pub struct WriterTask {
    db: Arc<Database>,
    term: Arc<LeaderTerm>,
    hooks: WriterHooks,
    /// The last number drawn and known to be committed.
    last: i64,
    /// The same for others to read.
    position: Arc<Position>,
    items: mpsc::Receiver<(Instant, Vec<Item>)>,
    /// Since when the oldest change waits that is taken and in no batch.
    oldest: Option<Instant>,
    /// Taken from the queue, waiting for an earlier change of the same compute.
    later: VecDeque<Item>,
    wire: Option<Wire>,
    doubt: Option<Doubt>,
}

impl std::fmt::Debug for WriterTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterTask").field("term", &self.term.term()).field("last", &self.last).finish_non_exhaustive()
    }
}

impl WriterTask {
    pub(super) fn new(
        db: Arc<Database>,
        term: Arc<LeaderTerm>,
        hooks: WriterHooks,
        position: Arc<Position>,
        items: mpsc::Receiver<(Instant, Vec<Item>)>,
    ) -> Self {
        let last = position.last();
        Self { db, term, hooks, last, position, items, oldest: None, later: VecDeque::new(), wire: None, doubt: None }
    }

    /// Writes until the token is cancelled or the leadership is found to be over. On cancel the batch in flight is
    /// finished and what still waits is answered `NotLeader`; close the [`super::Writer`] first to have it written.
    ///
    /// # Errors
    /// [`DbError::CursorMoved`] if somebody else wrote or committed work was lost: the state has to be loaded afresh.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), DbError> {
        let mut end = Ok(());
        loop {
            let batch = match self.next_batch(&token).await {
                Some(batch) => batch,
                None => break,
            };
            // For the collector of traces; nothing without one.
            let span = tracing::info_span!(
                target: "spans::writer",
                parent: None,
                "writer_batch",
                size = batch.len(),
                term = self.term.term().get()
            );
            let counted = self.counted(&batch);
            let written = self.write_all(batch, &token).instrument(span).await;
            counted();
            match written {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, term = self.term.term().get(), "the writer cannot go on");
                    self.position.doubt();
                    end = Err(error);
                    break;
                }
            }
        }
        self.items.close();
        for item in std::mem::take(&mut self.later) {
            item.answer(Err(WriteError::NotLeader));
        }
        while let Some((_, items)) = self.items.recv().await {
            answer_all([items], &WriteError::NotLeader);
        }
        // The next leadership of this process need not dial.
        if let Some(wire) = self.wire.take().filter(|wire| end.is_ok() && !wire.is_closed()) {
            self.db.leave_spare(wire);
        }
        end
    }

    /// Notes since when these wait.
    fn taken(&mut self, (since, items): (Instant, Vec<Item>)) -> Vec<Item> {
        self.oldest = Some(self.oldest.map_or(since, |oldest| oldest.min(since)));
        items
    }

    /// To be called when this batch is done with: tells of it.
    fn counted(&mut self, batch: &[Item]) -> impl FnOnce() + use<> {
        let (changes, began) = (batch.len(), Instant::now());
        let waited = self.oldest.map(|since| began - since).unwrap_or_default();
        // What was left over waits since then at the latest.
        self.oldest = self.oldest.filter(|_| !self.later.is_empty());
        let on_batch = self.hooks.on_batch.clone();
        move || {
            if let Some(on_batch) = on_batch {
                on_batch(Batch { changes, waited, took: began.elapsed() });
            }
        }
    }

    /// Waits for the first change and takes with it what else has queued: at most one per compute, sorted.
    async fn next_batch(&mut self, token: &CancellationToken) -> Option<Vec<Item>> {
        if token.is_cancelled() {
            return None;
        }
        let mut waiting = std::mem::take(&mut self.later);
        if waiting.is_empty() {
            let first = tokio::select! {
                biased;
                () = token.cancelled() => return None,
                first = self.items.recv() => first?,
            };
            waiting.extend(self.taken(first));
        }
        let mut batch: Vec<Item> = Vec::new();
        let (mut taken, mut bytes) = (HashSet::new(), 0);
        loop {
            if waiting.is_empty() {
                let more = self.items.try_recv().ok();
                waiting.extend(more.into_iter().flat_map(|more| self.taken(more)));
            }
            let Some(item) = waiting.pop_front() else { break };
            let full = !batch.is_empty() && (batch.len() >= BATCH_CHANGES || bytes + item.size() > BATCH_BYTES);
            let id = item.change.compute_id().cloned();
            // A compute that has to wait once waits with all that comes after it, so its order is kept.
            let again = id.is_some_and(|id| !taken.insert(id));
            if full || again {
                self.later.push_back(item);
                if full {
                    break;
                }
            } else {
                bytes += item.size();
                batch.push(item);
            }
        }
        self.later.append(&mut waiting);
        batch.sort_by(|a, b| a.change.compute_id().cmp(&b.change.compute_id()));
        Some(batch)
    }

    /// Writes a batch and answers every item of it. `false`: this is not the leader any more.
    async fn write_all(&mut self, batch: Vec<Item>, token: &CancellationToken) -> Result<bool, DbError> {
        let mut work = VecDeque::from([batch]);
        while let Some(mut items) = work.pop_front() {
            match self.write_one(&items, token).await {
                Ok(answers) => answer_each(items, answers),
                Err(Trouble::NotLeader) => {
                    work.push_front(items);
                    answer_all(work, &WriteError::NotLeader);
                    return Ok(false);
                }
                Err(Trouble::Refused { sqlstate, msg }) if items.len() == 1 => {
                    answer_all([items], &WriteError::Refused { sqlstate, msg });
                }
                Err(Trouble::Refused { .. }) => {
                    let second = items.split_off(items.len() / 2);
                    work.push_front(second);
                    work.push_front(items);
                }
                Err(Trouble::Retry(error)) => {
                    answer_all([items], &WriteError::Unavailable { msg: error.server_message() });
                }
                Err(Trouble::InDoubt) => answer_all([items], &WriteError::OutcomeUnknown),
                Err(Trouble::Fatal(error)) => {
                    work.push_front(items);
                    answer_all(work, &WriteError::Unavailable { msg: error.to_string() });
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// One batch, with retries.
    async fn write_one(&mut self, items: &[Item], token: &CancellationToken) -> Result<Answers, Trouble> {
        let deadline = Instant::now() + self.db.connector().patience();
        // An older batch may still be in doubt, whose callers have given up: it is cleared up first, and only heard of.
        if self.doubt.is_some() {
            match self.clear_up(deadline, token).await {
                Ok(_) => {}
                Err(Trouble::InDoubt) if self.doubt.is_none() => return Err(Trouble::NotLeader),
                Err(Trouble::InDoubt) => {
                    let after_ms = self.db.connector().patience().as_millis();
                    let doing = "looked what became of an earlier commit";
                    return Err(Trouble::Retry(DbError::Timeout { doing, after_ms }));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let mut pause = Pause::new();
        let mut tries = 0;
        loop {
            tries += 1;
            let trouble = match self.attempt(items).await {
                Ok(answers) => return Ok(answers),
                Err(Trouble::InDoubt) => match self.clear_up(deadline, token).await? {
                    Some(answers) => return Ok(answers),
                    None => continue,
                },
                Err(trouble) => trouble,
            };
            let Trouble::Retry(error) = trouble else { return Err(trouble) };
            // A process that was frozen past the deadline still looks once more: the fence will tell it better.
            let late = tries > 1 && Instant::now() >= deadline;
            if !error.is_retryable() || late || token.is_cancelled() {
                return Err(Trouble::Retry(error));
            }
            tracing::warn!(error = %error.server_message(), class = ?error.class(), "a batch is written again");
            pause.wait(token).await;
        }
    }

    /// One transaction.
    async fn attempt(&mut self, items: &[Item]) -> Result<Answers, Trouble> {
        let patience = self.db.connector().patience();
        let wire = self.connected().await.map_err(Trouble::Retry)?;
        let opened = bounded(patience, "began a batch", self.open(&wire, items)).await;
        let (planned, rows, now) = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => return Err(Trouble::NotLeader),
            Err(error) => return Err(self.give_up(wire, error).await),
        };
        let Some(rows) = rows else {
            let end = bounded(patience, "ended a batch", execute(&wire, "COMMIT", "ended a batch")).await;
            self.keep(wire, end.is_ok());
            return end.map(|()| answers_of(planned)).map_err(Trouble::Retry);
        };
        // Boxed: five statements side by side are a large future.
        let writing = Box::pin(wire.write(&rows, self.last, now, self.term.term()));
        let written = bounded(patience, "wrote a batch", writing).await;
        if let Err(error) = written {
            return Err(self.give_up(wire, error).await);
        }
        let written_at = Instant::now();
        if let Some(hook) = &self.hooks.in_write_tx {
            hook().await;
        }
        // A process that was frozen here may find its session ended, and the driver may not have noticed yet. Asked first,
        // the answer is certain; a COMMIT into a broken connection would leave it in doubt.
        if written_at.elapsed() > FROZEN {
            let asked =
                bounded(patience, "held a transaction open", execute(&wire, "SELECT 1", "held a transaction open"));
            if let Err(error) = asked.await {
                return Err(self.give_up(wire, error).await);
            }
        }
        if wire.is_closed() {
            // Nothing was sent, so nothing is in doubt.
            return Err(Trouble::Retry(DbError::SessionEnded { doing: "held a transaction open" }));
        }
        // A statement_timeout that fires while the commit waits for a synchronous standby would make it look done.
        let commit = execute(&wire, "SET LOCAL statement_timeout = 0; COMMIT", "committed a batch");
        let committed = bounded(patience, "committed a batch", commit).await;
        match committed {
            Ok(()) => {
                self.keep(wire, true);
                self.stands_at(rows.last);
                self.keep_texts(items, &planned);
                Ok(self.publish(answers_of(planned)))
            }
            // PostgreSQL ends a session for idling only while no statement runs: the COMMIT was never looked at.
            Err(error) if error.sqlstate() == Some(IDLE_IN_TRANSACTION) => Err(self.give_up(wire, error).await),
            Err(error) if error.ends_session() => {
                tracing::warn!(error = %error.server_message(), "the connection was lost at a commit");
                self.position.doubt();
                self.doubt = Some(Doubt { last: rows.last, answers: answers_of(planned) });
                Err(Trouble::InDoubt)
            }
            Err(error) => Err(self.give_up(wire, error).await),
        }
    }

    /// Begins, fences, reads and plans. `None`: the fence found no row.
    async fn open(
        &self,
        wire: &Wire,
        items: &[Item],
    ) -> Result<Option<(Vec<Result<Planned, WriteError>>, Option<Rows>, DateTime<Utc>)>, DbError> {
        let Some(found) = wire.begin(items, &self.term).await? else { return Ok(None) };
        let planned = found.plan(items, self.last);
        let rows = Rows::of(items, &planned)?;
        Ok(Some((planned, rows, found.now)))
    }

    /// Begins a transaction with the fence; the answer is its time.
    async fn fenced(&self, wire: &Wire) -> Result<Option<DateTime<Utc>>, DbError> {
        execute(wire, BEGIN, "began a batch").await?;
        let row = wire
            .client()
            .query_opt(&wire.fence, &[&self.term.term().get(), &self.term.instance_id().0])
            .await
            .map_err(DbError::query("checked the fence"))?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Learns what became of the commit that was lost: `Some` is what it answered, `None` that it was not executed.
    /// [`Trouble::InDoubt`]: not before the deadline, or never, and then `self.doubt` is empty.
    async fn clear_up(&mut self, deadline: Instant, token: &CancellationToken) -> Result<Option<Answers>, Trouble> {
        let mut pause = Pause::new();
        loop {
            match self.look_again().await {
                Ok(None) => {
                    // Somebody else leads. Whether it was committed before their claim can no longer be told.
                    self.doubt = None;
                    return Err(Trouble::InDoubt);
                }
                Ok(Some((found, items))) => {
                    let Some(doubt) = self.doubt.take() else { return Ok(None) };
                    let moved = DbError::CursorMoved { expected: self.last, found: Some(found) };
                    if found == self.last {
                        self.stands_at(found);
                        return Ok(None);
                    }
                    let answers = (found == doubt.last).then(|| as_found(doubt.answers, items)).flatten();
                    let Some(answers) = answers else { return Err(Trouble::Fatal(moved)) };
                    self.stands_at(found);
                    return Ok(Some(self.publish(answers)));
                }
                Err(error) => {
                    if Instant::now() >= deadline || token.is_cancelled() {
                        return Err(Trouble::InDoubt);
                    }
                    tracing::warn!(error = %error.server_message(), "still looking what became of a lost commit");
                }
            }
            pause.wait(token).await;
        }
    }

    /// Where the cursor stands once every earlier transaction has ended, and what is there above our last change.
    /// `None`: the fence found no row.
    async fn look_again(&mut self) -> Result<Option<(i64, Vec<Above>)>, DbError> {
        const DOING: &str = "looked what became of a commit";
        let (wire, last) = (self.connected().await?, self.last);
        let look = async {
            if self.fenced(&wire).await?.is_none() {
                return Ok(None);
            }
            let client = wire.client();
            let row = client.query_one(&wire.lock_cursor, &[]).await.map_err(DbError::query(DOING))?;
            let items = above(client, last).await?;
            execute(&wire, "COMMIT", DOING).await?;
            Ok(Some((row.get(0), items)))
        };
        let found = bounded(self.db.connector().patience(), DOING, look).await;
        self.keep(wire, matches!(found, Ok(Some(_))));
        found
    }

    fn stands_at(&mut self, last: i64) {
        self.last = last;
        self.position.is_at(last);
    }

    /// Takes the connection, making a new one if there is none. It has to be given back by [`Self::keep`].
    async fn connected(&mut self) -> Result<Wire, DbError> {
        if let Some(wire) = self.wire.take().filter(|wire| !wire.is_closed()) {
            return Ok(wire);
        }
        match self.db.take_spare() {
            Some(wire) => Ok(wire),
            None => Wire::open(&self.db).await,
        }
    }

    fn keep(&mut self, wire: Wire, usable: bool) {
        self.wire = usable.then_some(wire);
    }

    /// Rolls back what failed before its COMMIT took effect, and says what that means.
    async fn give_up(&mut self, wire: Wire, error: DbError) -> Trouble {
        if !error.ends_session() {
            let patience = self.db.connector().patience();
            let undone = bounded(patience, "rolled back a batch", execute(&wire, "ROLLBACK", "rolled back a batch"));
            let usable = undone.await.is_ok();
            self.keep(wire, usable);
        }
        match error.class() {
            ErrorClass::Data | ErrorClass::Integrity => Trouble::Refused {
                sqlstate: error.sqlstate().unwrap_or("22000").to_owned(),
                msg: error.server_message(),
            },
            _ if matches!(error, DbError::CursorMoved { .. }) => Trouble::Fatal(error),
            _ => Trouble::Retry(error),
        }
    }

    /// What was just asked for is pushed soon.
    fn keep_texts(&self, items: &[Item], planned: &[Result<Planned, WriteError>]) {
        for (item, one) in items.iter().zip(planned) {
            if let (Some(new), Ok(Planned { write: Some(_), .. })) = (item.change.new_spec(), one) {
                self.db.specs().keep(&new.hash, &new.spec);
            }
        }
    }

    fn publish(&self, answers: Answers) -> Answers {
        if let Some(on_commit) = &self.hooks.on_commit {
            answers.iter().flatten().filter(|committed| committed.changed).for_each(|committed| on_commit(committed));
        }
        answers
    }
}

/// Pauses between tries: 5 ms doubling to 200 ms, each between half and all of it.
struct Pause(u64);

impl Pause {
    fn new() -> Self {
        Self(5)
    }

    async fn wait(&mut self, token: &CancellationToken) {
        let ms = rand::rng().random_range(self.0 / 2..=self.0);
        self.0 = (self.0 * 2).min(200);
        tokio::select! {
            () = token.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        }
    }
}

async fn execute(wire: &Wire, sql: &str, doing: &'static str) -> Result<(), DbError> {
    wire.client().batch_execute(sql).await.map_err(DbError::query(doing))
}

fn answers_of(planned: Vec<Result<Planned, WriteError>>) -> Answers {
    planned.into_iter().map(|one| one.map(|planned| planned.answer)).collect()
}

/// The answers of a commit that was lost, with the rows as they are there. `None`: they are not what was to be written.
fn as_found(mut answers: Answers, items: Vec<Above>) -> Option<Answers> {
    let mut there: BTreeMap<i64, Above> = items.into_iter().map(|item| (item.change_seq(), item)).collect();
    for answer in answers.iter_mut().flatten().filter(|answer| answer.changed) {
        match (there.remove(&answer.change_seq), answer.record.is_some(), answer.observed.is_some(), answer.deleted) {
            (Some(Above::Compute { record, .. }), true, false, false) => answer.record = Some(record),
            (Some(Above::Observed { observed, .. }), false, true, false) => answer.observed = Some(*observed),
            (Some(Above::Deleted { .. }), false, false, true) | (None, false, false, false) => {}
            _ => return None,
        }
    }
    there.is_empty().then_some(answers)
}

fn answer_each(items: Vec<Item>, answers: Answers) {
    for (item, answer) in items.into_iter().zip(answers) {
        item.answer(answer);
    }
}

fn answer_all(batches: impl IntoIterator<Item = Vec<Item>>, error: &WriteError) {
    for item in batches.into_iter().flatten() {
        item.answer(Err(error.clone()));
    }
}
