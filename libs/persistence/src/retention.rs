//! Partitions of the journal, made ahead and dropped by age, and the pruning of tombstones.
//!
//! Called by: a task of the leader, now and then. What it calls: `session`. What a step locks, and for how long:
//!
//! | step | lock that others meet | how long |
//! |---|---|---|
//! | attach a partition | ACCESS EXCLUSIVE on the default partition only, which nobody writes once there are others | ms |
//! | prove that the default has nothing of it | SHARE UPDATE EXCLUSIVE on the default: writers go on | a scan |
//! | drop a partition | ACCESS EXCLUSIVE on the journal | ms |
//! | prune rows | those rows | a batch |
//!
//! Invariants: each step is a transaction of its own that begins with the fence; a lock that is not there within
//! [`LOCK_WAIT`] is given up and asked for at the next turn, because all writers queue behind whoever waits; a partition
//! begins in the future, so no row has to move; what is pruned is written down in the same transaction (`retention`), so a
//! reader that asks for it can be told. Rows of times for which no partition was made are in the default partition, and
//! leave it row by row.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use tokio_postgres::Client;

use crate::database::Database;
use crate::error::{DbError, ErrorClass};
use crate::migrate::execute;
use crate::schema::retention;
use crate::session::Session;
use crate::term::{FENCE, LeaderTerm};

/// Longest wait for a lock.
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// A proof that the default partition has nothing of a new one may take this long; writers do not wait for it.
const PROOF_LIMIT: Duration = Duration::from_secs(60);
/// A default partition up to this size is looked through under the lock: it takes some ten milliseconds.
const SMALL_BYTES: i64 = 16 << 20;
/// Rows that one transaction prunes.
const BATCH: i64 = 2000;
/// Batches of one turn; the rest comes at the next.
const BATCHES: u32 = 50;
/// Partitions that are there beside the one in use.
const AHEAD: i64 = 2;
/// Proves, while a partition is attached, that the default one has nothing of it.
const PROOF: &str = "journal_default_is_past";

/// How long the journal and tombstones are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// What one partition spans; at least a second.
    pub period: Duration,
    /// How old a line of the journal becomes at least; a tombstone becomes two periods older.
    pub retention: Duration,
    /// Up to how many bytes the default partition is looked through under the lock. Tests lower it.
    pub small_bytes: i64,
}

impl Keep {
    /// With the usual way of attaching.
    #[must_use]
    pub const fn new(period: Duration, retention: Duration) -> Self {
        Self { period, retention, small_bytes: SMALL_BYTES }
    }
}

/// What one turn did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Partitions that were made.
    pub made: Vec<String>,
    /// Partitions that were dropped.
    pub dropped: Vec<String>,
    /// Lines that left the default partition.
    pub lines: u64,
    /// Tombstones that were pruned.
    pub tombstones: u64,
    /// A lock was not there in time, or there was more than a turn does: come again soon.
    pub unfinished: bool,
}

/// Up to which change something was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct Pruned {
    /// The journal may have gaps up to here.
    pub journal: i64,
    /// Tombstones may be missing up to here.
    pub tombstones: i64,
}

/// A partition by its name: `journal_p<from>_<to>`, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    from: i64,
    to: i64,
}

impl Span {
    fn name(self) -> String {
        format!("journal_p{}_{}", self.from, self.to)
    }

    fn parse(name: &str) -> Option<Self> {
        let (from, to) = name.strip_prefix("journal_p")?.split_once('_')?;
        Some(Self { from: from.parse().ok()?, to: to.parse().ok()? })
    }
}

/// The partitions that are missing, in order: none begins before the next full period, and each after the last one there.
fn missing(there: &[Span], now: i64, period: i64) -> Vec<Span> {
    let period = period.max(1);
    let next = (now / period + 1) * period;
    let mut from = there.iter().map(|span| span.to).max().unwrap_or(0).max(next);
    let mut spans = Vec::new();
    while from < next + AHEAD * period {
        let to = (from / period + 1) * period;
        spans.push(Span { from, to });
        from = to;
    }
    spans
}

/// Why a step was not done.
enum Halt {
    /// Somebody else leads.
    NotLeader,
    /// A lock was not there in time.
    Busy,
    /// Something else.
    Failed(DbError),
}

impl From<DbError> for Halt {
    fn from(error: DbError) -> Self {
        match error.class() {
            // A line of the new partition's time was written while this turn was at it.
            ErrorClass::LockTimeout | ErrorClass::Deadlock | ErrorClass::Integrity => Self::Busy,
            _ => Self::Failed(error),
        }
    }
}

impl Database {
    /// Up to which change the journal and the tombstones have gaps.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn pruned(&self) -> Result<Pruned, DbError> {
        const DOING: &str = "read what was pruned";
        let mut conn = self.pooled(DOING).await?;
        let row = retention::table.select((retention::journal_pruned, retention::tombstones_pruned));
        row.first(&mut conn).await.map_err(DbError::diesel(DOING))
    }

    /// One turn: makes the partitions that are missing, drops those that are too old, prunes what lies elsewhere. `None`:
    /// this process does not lead any more.
    ///
    /// # Errors
    /// Any [`DbError`]; what was done before stays done.
    pub async fn look_after_journal(self: &Arc<Self>, term: &LeaderTerm, keep: &Keep) -> Result<Option<Kept>, DbError> {
        let mut turn = Turn { session: self.control_session().await?, term, keep, kept: Kept::default() };
        match turn.run().await {
            Ok(()) => Ok(Some(turn.kept)),
            Err(Halt::NotLeader) => Ok(None),
            Err(Halt::Busy) => Ok(Some(Kept { unfinished: true, ..turn.kept })),
            Err(Halt::Failed(error)) => Err(error),
        }
    }
}

struct Turn<'a> {
    session: Session,
    term: &'a LeaderTerm,
    keep: &'a Keep,
    kept: Kept,
}

impl Turn<'_> {
    async fn run(&mut self) -> Result<(), Halt> {
        // One that was left by a process that died would refuse every line once its time has come.
        self.take_proof_back().await?;
        let (now, spans) = self.look().await?;
        let seconds = i64::try_from(self.keep.period.as_secs()).unwrap_or(i64::MAX);
        for span in missing(&spans, now.timestamp(), seconds) {
            self.make(span).await?;
        }
        let Some(edge) =
            chrono::Duration::from_std(self.keep.retention).ok().and_then(|kept| now.checked_sub_signed(kept))
        else {
            return Ok(());
        };
        for span in spans.into_iter().filter(|span| span.to <= edge.timestamp()) {
            self.drop(span).await?;
        }
        self.prune(edge).await
    }

    async fn begin(&self) -> Result<DateTime<Utc>, Halt> {
        const DOING: &str = "began to look after the journal";
        let client = self.session.client();
        execute(client, "BEGIN", DOING).await?;
        let (term, me) = (self.term.term().get(), self.term.instance_id().0);
        let fence = client.query_opt(FENCE, &[&term, &me]).await.map_err(DbError::query(DOING))?;
        let Some(fence) = fence else { return Err(Halt::NotLeader) };
        execute(client, &format!("SET LOCAL lock_timeout = {}", LOCK_WAIT.as_millis()), DOING).await?;
        Ok(fence.get(0))
    }

    /// Ends the transaction that [`Self::begin`] began: what failed leaves nothing.
    async fn end<T>(&self, done: Result<T, DbError>) -> Result<T, Halt> {
        const DOING: &str = "looked after the journal";
        match done {
            Ok(value) => {
                execute(self.session.client(), "COMMIT", DOING).await?;
                Ok(value)
            }
            Err(error) => {
                if !self.session.is_closed() {
                    execute(self.session.client(), "ROLLBACK", DOING).await?;
                }
                Err(error.into())
            }
        }
    }

    async fn take_proof_back(&self) -> Result<(), Halt> {
        self.begin().await?;
        self.end(take_proof_back(self.session.client()).await).await
    }

    async fn look(&self) -> Result<(DateTime<Utc>, Vec<Span>), Halt> {
        const SPANS: &str = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'journal'::regclass";
        let now = self.begin().await?;
        let rows = self.session.client().query(SPANS, &[]).await.map_err(DbError::query("looked at the journal"));
        let rows = self.end(rows).await?;
        let mut spans: Vec<Span> = rows.iter().filter_map(|row| Span::parse(row.get(0))).collect();
        spans.sort();
        Ok((now, spans))
    }

    async fn make(&mut self, span: Span) -> Result<(), Halt> {
        self.begin().await?;
        let size = size_of_default(self.session.client()).await;
        let proved = self.end(size).await? > self.keep.small_bytes;
        if proved {
            self.prove(span).await?;
        }
        self.begin().await?;
        let made = self.end(attach(self.session.client(), span, proved).await).await;
        if made.is_err() && proved && !self.session.is_closed() {
            // As soon as can be, and else at the next turn.
            drop(self.take_proof_back().await);
        }
        made?;
        self.kept.made.push(span.name());
        Ok(())
    }

    /// Has PostgreSQL look through a large default partition beside the writers.
    async fn prove(&self, span: Span) -> Result<(), Halt> {
        const DOING: &str = "proved that a partition is empty";
        let client = self.session.client();
        let claim = format!(
            "ALTER TABLE journal_default ADD CONSTRAINT {PROOF} CHECK (at < to_timestamp({})) NOT VALID",
            span.from
        );
        self.begin().await?;
        self.end(execute(client, &claim, DOING).await).await?;
        self.begin().await?;
        let check = format!(
            "SET LOCAL statement_timeout = {}; ALTER TABLE journal_default VALIDATE CONSTRAINT {PROOF}",
            PROOF_LIMIT.as_millis()
        );
        let proved = self.end(execute(client, &check, DOING).await).await;
        if proved.is_err() && !self.session.is_closed() {
            drop(self.take_proof_back().await);
        }
        proved
    }

    async fn drop(&mut self, span: Span) -> Result<(), Halt> {
        self.begin().await?;
        self.end(drop_partition(self.session.client(), span).await).await?;
        self.kept.dropped.push(span.name());
        Ok(())
    }

    async fn prune(&mut self, edge: DateTime<Utc>) -> Result<(), Halt> {
        // A tombstone outlives the last lines of its compute: no journal tells of a generation after a higher one.
        let whole = chrono::Duration::from_std(self.keep.period).unwrap_or_default() * 2;
        for (what, edge) in [(LINES, edge), (TOMBSTONES, edge - whole)] {
            for batch in 1..=BATCHES {
                self.begin().await?;
                let pruned = self.session.client().query_one(what, &[&edge, &BATCH]).await;
                let count: i64 = self.end(pruned.map_err(DbError::query("pruned"))).await?.get(0);
                let counter = if what == LINES { &mut self.kept.lines } else { &mut self.kept.tombstones };
                *counter += count.unsigned_abs();
                if count < BATCH {
                    break;
                }
                self.kept.unfinished |= batch == BATCHES;
            }
        }
        Ok(())
    }
}

const LINES: &str = "
    WITH gone AS (
        DELETE FROM journal_default
        WHERE (at, change_seq) IN (SELECT at, change_seq FROM journal_default WHERE at < $1 ORDER BY at LIMIT $2)
        RETURNING change_seq),
    noted AS (
        UPDATE retention SET journal_pruned = greatest(journal_pruned, (SELECT max(change_seq) FROM gone))
        WHERE EXISTS (SELECT FROM gone))
    SELECT count(*) FROM gone";

const TOMBSTONES: &str = "
    WITH gone AS (
        DELETE FROM computes
        WHERE deleted_at < $1
          AND compute_id IN (SELECT compute_id FROM computes WHERE deleted_at < $1 ORDER BY deleted_at LIMIT $2)
        RETURNING change_seq),
    noted AS (
        UPDATE retention SET tombstones_pruned = greatest(tombstones_pruned, (SELECT max(change_seq) FROM gone))
        WHERE EXISTS (SELECT FROM gone))
    SELECT count(*) FROM gone";

async fn size_of_default(client: &Client) -> Result<i64, DbError> {
    let size = client.query_one("SELECT pg_relation_size('journal_default'::regclass)", &[]).await;
    size.map(|row| row.get(0)).map_err(DbError::query("looked at the default partition"))
}

async fn take_proof_back(client: &Client) -> Result<(), DbError> {
    const DOING: &str = "looked for a leftover";
    let there = "SELECT FROM pg_constraint WHERE conrelid = 'journal_default'::regclass AND conname = $1";
    if client.query_opt(there, &[&PROOF]).await.map_err(DbError::query(DOING))?.is_none() {
        return Ok(());
    }
    execute(client, &format!("ALTER TABLE journal_default DROP CONSTRAINT {PROOF}"), DOING).await
}

async fn attach(client: &Client, span: Span, proved: bool) -> Result<(), DbError> {
    let (name, Span { from, to }) = (span.name(), span);
    let mut sql = format!(
        "CREATE TABLE {name} (LIKE journal INCLUDING ALL);
         ALTER TABLE journal ATTACH PARTITION {name} FOR VALUES FROM (to_timestamp({from})) TO (to_timestamp({to}))"
    );
    if proved {
        sql.push_str(&format!("; ALTER TABLE journal_default DROP CONSTRAINT {PROOF}"));
    }
    execute(client, &sql, "made a partition of the journal").await
}

/// Its last change is read and written down first, so that the lock is held for the drop alone.
async fn drop_partition(client: &Client, span: Span) -> Result<(), DbError> {
    let name = span.name();
    let sql = format!(
        "UPDATE retention SET journal_pruned = greatest(journal_pruned, (SELECT max(change_seq) FROM {name}));
         LOCK TABLE journal IN ACCESS EXCLUSIVE MODE; DROP TABLE {name}"
    );
    execute(client, &sql, "dropped a partition of the journal").await
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn span(from: i64, to: i64) -> Span {
        Span { from, to }
    }

    #[test]
    fn two_are_made_ahead_and_none_twice() {
        assert_eq!(missing(&[], 105, 10), [span(110, 120), span(120, 130)]);
        assert_eq!(missing(&[span(110, 120), span(120, 130)], 105, 10), []);
        assert_eq!(missing(&[span(110, 120), span(120, 130)], 110, 10), [span(130, 140)]);
        assert_eq!(missing(&[span(10, 20)], 105, 10), [span(110, 120), span(120, 130)], "after a gap");
    }

    #[test]
    fn another_period_goes_on_where_the_last_one_ended() {
        let there = [span(100, 110), span(110, 120), span(120, 130)];
        assert_eq!(missing(&there, 115, 60), [span(130, 180), span(180, 240)]);
        assert_eq!(missing(&[span(100, 400)], 115, 10), [], "those there reach further");
    }

    #[test]
    fn a_name_is_its_span() {
        assert_eq!(span(110, 120).name(), "journal_p110_120");
        assert_eq!(Span::parse("journal_p110_120"), Some(span(110, 120)));
        for other in ["journal_default", "journal_p1", "journal_px_2"] {
            assert_eq!(Span::parse(other), None, "{other}");
        }
    }
}
