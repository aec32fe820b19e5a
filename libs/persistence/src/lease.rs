//! The leader row: read, claim, renew, release, and ending the sessions of a leader that is gone.
//!
//! Called by: the controller's leadership room. What it calls: `session`. Invariants: every write here is one
//! statement, hence one commit; a claim compares and sets, and its outcome is known before a [`LeaderTerm`] is minted;
//! an error always leaves the session usable again, by making a new connection at the next call.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgfleet_api::controller::LeaderView;
use pgfleet_api::{ClusterId, InstanceId, Term};
use pgfleet_domain::leadership::{Began, Seen};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::compat::{MEMBER_LOCK, compat_in};
use crate::config::application_name;
use crate::database::Database;
use crate::error::{DbError, ErrorClass};
use crate::records::Ended;
use crate::session::Session;
use crate::term::LeaderTerm;

/// What a claim asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The row as it was seen; none if there was no row.
    pub seen: Option<Seen>,
    /// The highest term this member ever heard of; the new one is above it.
    pub floor: Term,
    /// Base URL of the claimer's API.
    pub address: String,
    /// Length of its lease.
    pub lease_ms: i64,
    /// Why it may claim; also how the history says that the old term ended, if its leader did not.
    pub how: Began,
}

/// How a claim ended.
#[derive(Debug)]
pub enum ClaimOutcome {
    /// This process leads.
    Won(LeaderTerm),
    /// The row is not as it was seen: somebody was faster, or the leader is alive.
    Lost,
}

/// How a renewal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The lease runs anew.
    Yes,
    /// The row is somebody else's, or released: this leadership is over.
    NotMine,
}

/// What a renewal saw of the database, beside the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The last change that is committed.
    pub last_change: i64,
    /// The timeline: another one after every promotion.
    pub timeline: String,
    /// The system identifier: another one is another server.
    pub system: i64,
}

/// What [`LeaseSession::end_sessions_of`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedSessions {
    /// Sessions that were told to end.
    pub ended: usize,
    /// Sessions that were still there when time ran out.
    pub left: usize,
}

/// A dedicated connection for the leader row. It connects when first used and again after any failure.
#[derive(Debug)]
pub struct LeaseSession {
    db: Arc<Database>,
    open: Option<Open>,
}

struct Open {
    session: Session,
    backend_pid: i32,
    /// Prepared at their first use: each saves a round trip where a hand-over waits for it.
    prepared: Mutex<BTreeMap<&'static str, Statement>>,
}

impl Open {
    async fn prepare(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.session.client().prepare(sql).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    async fn query(
        &self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.session.client().query(&statement, params).await
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("backend_pid", &self.backend_pid).finish_non_exhaustive()
    }
}

const READ: &str =
    "SELECT cluster_id, term, instance_id, address, renewals, lease_ms, started_at, renewed_at, released_at
                    FROM leader, cluster";

const CLAIM_FREE: &str = "
    WITH won AS (
        INSERT INTO leader (term, instance_id, address, lease_ms)
        VALUES (greatest($1::bigint, (SELECT max(term) FROM leader_history)) + 1, $2, $3, $4)
        ON CONFLICT DO NOTHING RETURNING term
    ), born AS (
        INSERT INTO leader_history (term, instance_id, address, began, target_schema)
        SELECT term, $2, $3, $5, $6 FROM won
    )
    SELECT term, cluster_id, pg_notify('pgfleet_leader', term::text) FROM won, cluster";

macro_rules! claim_seen {
    ($gate:literal) => {
        concat!(
            "WITH won AS (
        UPDATE leader
        SET term = greatest(term, $1::bigint) + 1, instance_id = $2, address = $3, lease_ms = $4,
            renewals = 0, started_at = now(), renewed_at = now(), released_at = NULL
        WHERE term = $7 AND instance_id = $8 AND ($9::bigint IS NULL OR renewals = $9) AND ",
            $gate,
            "
        RETURNING term
    ), closed AS (
        UPDATE leader_history h
        SET ended = coalesce(h.ended, $5), ended_at = coalesce(h.ended_at, now())
        FROM won WHERE h.term = $7
    ), born AS (
        INSERT INTO leader_history (term, instance_id, address, began, target_schema)
        SELECT term, $2, $3, $5, $6 FROM won
    )
    SELECT term, cluster_id, pg_notify('pgfleet_leader', term::text) FROM won, cluster"
        )
    };
}

/// Of a build that the schema shuts out, the claim itself finds nothing to claim: whoever polls may be late.
const CLAIM_SEEN: &str = claim_seen!("NOT EXISTS (SELECT FROM schema_compat WHERE lowest_writer > $10::integer)");

/// Before the migration that makes the table of the gate.
const CLAIM_SEEN_UNGATED: &str = claim_seen!("$10::integer IS NOT NULL");

/// Touches no column of a unique index, so it never waits for an open fence.
const RENEW: &str = "
    UPDATE leader SET renewals = renewals + 1, renewed_at = now()
    WHERE term = $1 AND instance_id = $2 AND released_at IS NULL RETURNING term";

/// The same, and what the database is: whether it has still what this member knows. Once there is the cursor.
const RENEW_AND_LOOK: &str = "
    UPDATE leader SET renewals = renewals + 1, renewed_at = now()
    WHERE term = $1 AND instance_id = $2 AND released_at IS NULL
    RETURNING (SELECT last_change FROM change_cursor), left(pg_walfile_name(pg_current_wal_lsn()), 8),
              (pg_control_system()).system_identifier";

const RELEASE: &str = "
    WITH freed AS (
        UPDATE leader SET released_at = now()
        WHERE term = $1 AND instance_id = $2 AND released_at IS NULL RETURNING term
    ), closed AS (
        UPDATE leader_history h SET ended = $3, ended_at = now(), note = coalesce($4, h.note)
        FROM freed WHERE h.term = freed.term
    )
    SELECT pg_notify('pgfleet_leader', term::text) FROM freed";

const TERMINATE: &str = "
    SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = $1 AND pid <> pg_backend_pid()";

const UNDEFINED_TABLE: &str = "42P01";

/// Between two looks at whether the sessions of an old leader have left: a takeover waits for it.
const SESSIONS_POLL: Duration = Duration::from_millis(1);

impl LeaseSession {
    /// A session that will connect when it is first used.
    #[must_use]
    pub fn new(db: Arc<Database>) -> Self {
        Self { db, open: None }
    }

    /// The leader row; none before the first claim.
    ///
    /// # Errors
    /// Any [`DbError`]; the next call connects anew.
    pub async fn read(&mut self) -> Result<Option<LeaderView>, DbError> {
        const DOING: &str = "read the leader row";
        let reading = async |open: &Open| open.query(READ, &[]).await.map_err(DbError::query(DOING));
        let rows = self.run_within(self.short_patience(), DOING, reading).await?;
        Ok(rows.first().map(leader_row))
    }

    /// Prepares what a claim and its renewals will say, while nothing waits for it.
    ///
    /// # Errors
    /// Any [`DbError`]; everything works without it, only later.
    pub async fn warm_up(&mut self) -> Result<(), DbError> {
        const DOING: &str = "prepared the statements of a claim";
        for sql in [claim_seen(&self.db), renewal(&self.db), RELEASE, TERMINATE] {
            self.run(DOING, async |open| open.prepare(sql).await.map(drop).map_err(DbError::query(DOING))).await?;
        }
        Ok(())
    }

    /// Claims leadership of the row as it was seen. A leader that did not consent must have been dealt with by
    /// [`Self::end_sessions_of`] before; on [`crate::ErrorClass::LockTimeout`] repeat both.
    ///
    /// If the connection is lost before the answer, the backend that may still be at it is ended first, and then the
    /// row tells: it is won if it carries this instance in a term that is newer than all it knew.
    ///
    /// # Errors
    /// Any [`DbError`]: the claim is then known not to be committed, or could not be cleared up; claiming again with
    /// the same `Claim` is safe in both cases.
    pub async fn claim(&mut self, claim: &Claim) -> Result<ClaimOutcome, DbError> {
        let me = self.db.instance_id();
        let backend_pid = self.connected().await?.backend_pid;
        let db = Arc::clone(&self.db);
        let first = self.run("claimed leadership", async |open| claim_once(open, &db, claim).await).await;
        match first {
            Ok(Some((term, cluster_id))) => Ok(ClaimOutcome::Won(LeaderTerm::mint(term, cluster_id, me))),
            Ok(None) => self.settle(claim, None).await,
            Err(error) if error.ends_session() => {
                tracing::warn!(%error, "the connection was lost during a claim; reading what became of it");
                self.settle(claim, Some((backend_pid, error))).await
            }
            Err(error) => Err(error),
        }
    }

    /// Extends the lease by one period. Repeating it after an error is harmless.
    ///
    /// # Errors
    /// Any [`DbError`]: nothing is known about the row.
    pub async fn renew(&mut self, term: &LeaderTerm) -> Result<Renewed, DbError> {
        Ok(self.renew_and_look(term).await?.0)
    }

    /// As [`Self::renew`], with what it saw of the database; nothing before the migrations, or if the row is not ours.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub async fn renew_and_look(&mut self, term: &LeaderTerm) -> Result<(Renewed, Option<Head>), DbError> {
        const DOING: &str = "renewed the lease";
        let (number, me, sql) = (term.term().get(), term.instance_id().0, renewal(&self.db));
        let renewing = async |open: &Open| open.query(sql, &[&number, &me]).await.map_err(DbError::query(DOING));
        let rows = self.run_within(self.short_patience(), DOING, renewing).await?;
        let Some(row) = rows.first() else { return Ok((Renewed::NotMine, None)) };
        let last_change = if sql == RENEW { None } else { row.get::<_, Option<i64>>(0) };
        let head = last_change.map(|last_change| Head { last_change, timeline: row.get(1), system: row.get(2) });
        Ok((Renewed::Yes, head))
    }

    /// Gives the row up and writes down how the term ended; fences fail from then on and anybody may claim at once.
    /// Answers whether it was still ours.
    ///
    /// # Errors
    /// Any [`DbError`]; repeating it is harmless.
    pub async fn release(&mut self, term: &LeaderTerm, how: Ended, note: Option<&str>) -> Result<bool, DbError> {
        let (number, me, word) = (term.term().get(), term.instance_id().0, how.as_str());
        let rows = self
            .run("released the leader row", async |open| {
                open.query(RELEASE, &[&number, &me, &word, &note])
                    .await
                    .map_err(DbError::query("released the leader row"))
            })
            .await?;
        Ok(rows.len() == 1)
    }

    /// Ends every session of a controller that is gone, and waits until they have left: one that stays could hold
    /// an open fence, or commit a statement that was sent long ago. Needs the same database role.
    ///
    /// # Errors
    /// Any [`DbError`]. Sessions that are still there after `within` are counted, not an error.
    pub async fn end_sessions_of(
        &mut self,
        instance_id: InstanceId,
        within: Duration,
    ) -> Result<EndedSessions, DbError> {
        let name = application_name(instance_id);
        let deadline = tokio::time::Instant::now() + within;
        let mut told = std::collections::BTreeSet::new();
        loop {
            let pids =
                self.run("ended the sessions of the old leader", async |open| terminate(open, &name).await).await?;
            told.extend(pids.iter().copied());
            if pids.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(EndedSessions { ended: told.len(), left: pids.len() });
            }
            tokio::time::sleep(SESSIONS_POLL).await;
        }
    }

    /// Decides what became of a claim that did not answer with a term.
    async fn settle(&mut self, claim: &Claim, lost: Option<(i32, DbError)>) -> Result<ClaimOutcome, DbError> {
        let me = self.db.instance_id();
        if let Some((pid, _)) = &lost {
            // The old backend may be about to commit. Only when it is gone does the row stand still.
            let (pid, name) = (*pid, application_name(me));
            let deadline = tokio::time::Instant::now() + self.db.connector().patience();
            while self
                .run("ended the session of a lost claim", async |open| {
                    terminate_one(open.session.client(), pid, &name).await
                })
                .await?
            {
                if tokio::time::Instant::now() >= deadline {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let row = self.read().await?;
        let known = claim.seen.map_or(claim.floor, |seen| seen.term.max(claim.floor));
        match (row, lost) {
            (Some(row), _) if row.instance_id == me && row.term > known && row.released_at.is_none() => {
                Ok(ClaimOutcome::Won(LeaderTerm::mint(row.term, row.cluster_id, me)))
            }
            (row, Some((_, error))) if as_seen(row.as_ref(), claim) => Err(error),
            (Some(_), None) => self.lost_or_shut_out().await,
            _ => Ok(ClaimOutcome::Lost),
        }
    }

    /// Nothing was claimed: because the row is not as it was seen, or because the schema is too new for this build.
    async fn lost_or_shut_out(&mut self) -> Result<ClaimOutcome, DbError> {
        let number = self.db.release().number();
        match self.run("read the schema's compatibility", async |open| compat_in(open.session.client()).await).await? {
            Some(compat) if !compat.lets_lead(number) => {
                Err(DbError::SchemaTooNew { number, lowest: compat.lowest_writer })
            }
            Some(_) | None => Ok(ClaimOutcome::Lost),
        }
    }

    async fn connected(&mut self) -> Result<&Open, DbError> {
        let usable = self.open.take().filter(|open| !open.session.is_closed());
        let open = match usable {
            Some(open) => open,
            None => {
                let session = self.db.control_session().await?;
                // The lock says that a member of this build is alive, see `compat`; nobody ever takes it exclusively.
                let backend_pid = session
                    .client()
                    .query_one(
                        "SELECT pg_backend_pid(), pg_try_advisory_lock_shared($1, $2)",
                        &[&MEMBER_LOCK, &self.db.release().number()],
                    )
                    .await
                    .map_err(DbError::query("opened the lease session"))?
                    .get(0);
                Open { session, backend_pid, prepared: Mutex::default() }
            }
        };
        Ok(self.open.insert(open))
    }

    /// For what is asked again and again: a session or a way to it that hangs is given up while the lease still runs, so
    /// that the next try can find a better one.
    fn short_patience(&self) -> Duration {
        self.db.connector().patience() / 2
    }

    /// Runs one question within our patience. After a timeout or a lost session the connection is dropped, so that
    /// an answer that comes late cannot be taken for the answer to a later question.
    async fn run<T>(
        &mut self,
        doing: &'static str,
        ask: impl AsyncFnOnce(&Open) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.run_within(self.db.connector().patience(), doing, ask).await
    }

    async fn run_within<T>(
        &mut self,
        patience: Duration,
        doing: &'static str,
        ask: impl AsyncFnOnce(&Open) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let open = bounded(patience, "connected to it for the leader row", self.connected()).await?;
        let answer = bounded(patience, doing, ask(open)).await;
        // A statement that does not fit the tables any more would fail for ever on this session.
        if answer.as_ref().is_err_and(|error| error.ends_session() || error.class() == ErrorClass::Other) {
            self.open = None;
            // A database that was put back to before its migrations has to be led before they can run again.
            if answer.as_ref().is_err_and(|error| error.sqlstate() == Some(UNDEFINED_TABLE)) {
                self.db.ungate();
            }
        }
        answer
    }
}

pub(crate) async fn bounded<T>(
    patience: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, DbError>>,
) -> Result<T, DbError> {
    match tokio::time::timeout(patience, work).await {
        Ok(answer) => answer,
        Err(_) => Err(DbError::Timeout { doing, after_ms: patience.as_millis() }),
    }
}

fn as_seen(row: Option<&LeaderView>, claim: &Claim) -> bool {
    match (row, claim.seen) {
        (None, None) => true,
        (Some(row), Some(seen)) => row.term == seen.term && row.instance_id == seen.instance_id,
        _ => false,
    }
}

async fn claim_once(open: &Open, db: &Database, claim: &Claim) -> Result<Option<(Term, ClusterId)>, DbError> {
    let (floor, address, how) = (claim.floor.get(), &claim.address, claim.how.as_str());
    let (me, target, number) = (db.instance_id(), db.release().newest(), db.release().number());
    let rows = match claim.seen {
        None => open.query(CLAIM_FREE, &[&floor, &me.0, address, &claim.lease_ms, &how, &target]).await,
        Some(seen) => {
            let (term, old) = (seen.term.get(), seen.instance_id.0);
            let params: [&(dyn ToSql + Sync); 10] =
                [&floor, &me.0, address, &claim.lease_ms, &how, &target, &term, &old, &seen.renewals, &number];
            open.query(claim_seen(db), &params).await
        }
    };
    let rows = rows.map_err(DbError::query("claimed leadership"))?;
    Ok(rows.first().map(|row| (Term(row.get(0)), ClusterId(row.get(1)))))
}

/// The renewal that fits the tables there are.
fn renewal(db: &Database) -> &'static str {
    if db.is_gated() { RENEW_AND_LOOK } else { RENEW }
}

/// The claim with its gate, where there is one.
fn claim_seen(db: &Database) -> &'static str {
    if db.is_gated() { CLAIM_SEEN } else { CLAIM_SEEN_UNGATED }
}

async fn terminate(open: &Open, name: &str) -> Result<Vec<i32>, DbError> {
    let rows = open.query(TERMINATE, &[&name]).await.map_err(DbError::query("ended the sessions of the old leader"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn terminate_one(client: &Client, pid: i32, name: &str) -> Result<bool, DbError> {
    let rows = client
        .query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2",
            &[&pid, &name],
        )
        .await
        .map_err(DbError::query("ended the session of a lost claim"))?;
    Ok(!rows.is_empty())
}

fn leader_row(row: &Row) -> LeaderView {
    LeaderView {
        cluster_id: ClusterId(row.get(0)),
        term: Term(row.get(1)),
        instance_id: InstanceId(row.get(2)),
        address: row.get(3),
        renewals: row.get(4),
        lease_ms: row.get(5),
        started_at: row.get(6),
        renewed_at: row.get(7),
        released_at: row.get(8),
    }
}
