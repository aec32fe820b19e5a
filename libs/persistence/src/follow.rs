//! Following the database by `change_seq`: a whole load once, then only what came after it.
//!
//! Called by: the controller's memory, and the writer after a commit that was lost ([`above`]). What it calls: `session`.
//!
//! ```text
//!   load ──▶ LoadedState at n ──▶ catch_up(n) ──▶ News up to m ──▶ catch_up(m) …
//!                                     └─▶ Afresh: what was loaded belongs to another schema, timeline, server or fleet,
//!                                         or the database has lost changes that were loaded: load again
//! ```
//!
//! Invariants: a load and each catch-up is one REPEATABLE READ READ ONLY transaction, and the cursor read in it is the new
//! position; rows leave no gap, because only the one writer draws numbers and in commit order. A compute's row in [`News`]
//! brings what was observed of it: one that was deleted and made again in between must not keep what was seen before.

use std::sync::Arc;

use pgfleet_api::compute::Observed;
use pgfleet_api::{ClusterId, ComputeId, Generation};
use tokio_postgres::{Client, Row, Statement};

use crate::database::Database;
use crate::error::DbError;
use crate::lease::bounded;
use crate::records::{
    ComputeRecord, JsonBytes, Labels, LoadedState, compute_id_of, labels_of, observed_of, policy_of, spec_hash_of,
    timeout_of, wants_timeout,
};
use crate::session::{Session, SessionKind};
use crate::whole;

/// Where the database stands, and what identifies it.
const HEAD: &str = "
    SELECT last_change, cluster_id,
           (SELECT count(*) || ':' || coalesce(max(version), '') FROM __diesel_schema_migrations),
           left(pg_walfile_name(pg_current_wal_lsn()), 8), (pg_control_system()).system_identifier,
           pg_postmaster_start_time()::text, (SELECT tombstones_pruned FROM retention)
    FROM change_cursor, cluster";

/// What a [`ComputeRecord`] is made of, and whether it is a tombstone. The specs are taken apart only where a policy wants to
/// know the timeout: for all of them that is a quarter of a load.
macro_rules! columns {
    () => {
        "c.compute_id, c.agent_url, c.labels, c.generation,
           CASE WHEN c.policy <> '{}' THEN (c.spec->'suspend_timeout_seconds')::text END, c.spec_hash,
           c.change_seq, c.created_at, c.updated_at, c.policy, c.deleted_at IS NOT NULL"
    };
}
pub(crate) use columns;

const ONE: &str = concat!(
    "SELECT ",
    columns!(),
    ", o.observed
    FROM computes c LEFT JOIN observed o ON o.compute_id = c.compute_id
    WHERE c.compute_id = $1 AND c.deleted_at IS NULL"
);

pub(crate) const COMPUTES_ABOVE: &str = concat!(
    "SELECT ",
    columns!(),
    ", (SELECT o.observed FROM observed o WHERE o.compute_id = c.compute_id)
    FROM computes c
    WHERE c.change_seq > $1 ORDER BY c.change_seq"
);

pub(crate) const OBSERVED_ABOVE: &str =
    "SELECT compute_id, observed, change_seq FROM observed WHERE change_seq > $1 ORDER BY change_seq";

/// What identifies that which was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) cluster_id: ClusterId,
    /// How many migrations ran, and the newest.
    schema: String,
    timeline: String,
    system: i64,
    /// When the server was started.
    started: String,
}

/// Why what was loaded cannot be followed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Afresh {
    /// Nothing was loaded through this value.
    NeverLoaded,
    /// Other migrations have run.
    Schema,
    /// The database was promoted or recovered to a point in time.
    Timeline,
    /// It is another server or another fleet.
    Identity,
    /// Changes that were loaded are not there any more.
    LostChanges,
    /// Tombstones that came after what was loaded have been pruned: a compute may have gone without a trace.
    Pruned,
    /// The server was started again. It may have been given older data, on which the numbers of the lost changes were
    /// drawn again since: only a load can tell.
    Restarted,
}

impl Afresh {
    /// A word for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverLoaded => "never_loaded",
            Self::Schema => "schema",
            Self::Timeline => "timeline",
            Self::Identity => "identity",
            Self::LostChanges => "lost_changes",
            Self::Pruned => "pruned",
            Self::Restarted => "restarted",
        }
    }
}

/// What a catch-up found.
#[derive(Debug, Clone, PartialEq)]
pub enum Caught {
    /// What came after the cursor.
    News(News),
    /// It has to be loaded again.
    Afresh(Afresh),
}

/// What came after a cursor, up to another one.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// The last change that is in it, or was before it.
    pub change_seq: i64,
    /// To be taken in, in this order.
    pub items: Vec<Item>,
}

/// One thing that changed, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// What was asked for, with what is observed of it.
    Compute {
        /// The new row.
        record: ComputeRecord,
        /// What is observed of it; what was known before may belong to a compute that was deleted.
        observed: Option<Box<Observed>>,
    },
    /// Forget it.
    Deleted {
        /// Which compute.
        compute_id: ComputeId,
        /// The change that deleted it.
        change_seq: i64,
    },
    /// Something new was seen of a compute.
    Observed {
        /// Which compute.
        compute_id: ComputeId,
        /// What was seen.
        observed: Box<Observed>,
        /// The change that wrote it.
        change_seq: i64,
    },
}

impl Item {
    /// The change that this is the outcome of.
    #[must_use]
    pub fn change_seq(&self) -> i64 {
        match self {
            Self::Compute { record, .. } => record.change_seq,
            Self::Deleted { change_seq, .. } | Self::Observed { change_seq, .. } => *change_seq,
        }
    }
}

/// A session that loads and follows. It connects when first used and again after any failure.
pub struct Tail {
    db: Arc<Database>,
    open: Option<Open>,
    epoch: Option<Epoch>,
}

pub(crate) struct Open {
    pub(crate) session: Session,
    pub(crate) head: Statement,
    computes: Statement,
    observed: Statement,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Database {
    /// The whole state as of one moment, read on a session of its own; who wants to follow on keeps a [`Tail`].
    ///
    /// # Errors
    /// Any [`DbError`]; before the migrations the tables are missing.
    pub async fn load(self: &Arc<Self>) -> Result<LoadedState, DbError> {
        Tail::new(Arc::clone(self)).load().await
    }

    /// One compute with what was last observed of it, as of one moment; none if it is unknown or deleted.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn compute(&self, compute_id: &ComputeId) -> Result<Option<(ComputeRecord, Option<Observed>)>, DbError> {
        const DOING: &str = "read a compute";
        let read = async {
            let session = self.connector().session(SessionKind::Follow).await?;
            session.client().query_opt(ONE, &[&compute_id.as_str()]).await.map_err(DbError::query(DOING))
        };
        let Some(row) = bounded(self.connector().patience(), DOING, read).await? else { return Ok(None) };
        Ok(Some((record_of(&row)?, row.get::<_, Option<JsonBytes<'_>>>(11).map(observed_of).transpose()?)))
    }
}

impl Tail {
    /// Nothing is dialled yet.
    #[must_use]
    pub fn new(db: Arc<Database>) -> Self {
        Self { db, open: None, epoch: None }
    }

    /// Everything as of one moment.
    ///
    /// # Errors
    /// Any [`DbError`]; before the migrations the tables are missing.
    pub async fn load(&mut self) -> Result<LoadedState, DbError> {
        let open = self.connected().await?;
        let (loaded, epoch) = whole::load(&self.db, &open).await?;
        self.open = Some(open);
        self.epoch = Some(epoch);
        Ok(loaded)
    }

    /// What came after `cursor`, in one round trip.
    ///
    /// # Errors
    /// Any [`DbError`]; the next call connects anew.
    pub async fn catch_up(&mut self, cursor: i64) -> Result<Caught, DbError> {
        let Some(known) = self.epoch.clone() else { return Ok(Caught::Afresh(Afresh::NeverLoaded)) };
        let open = self.connected().await?;
        let read = read_above(&open, cursor);
        let (head, computes, observed) = bounded(self.db.connector().patience(), "caught up", read).await?;
        self.open = Some(open);
        let (change_seq, epoch) = head_of(&head);
        let pruned: Option<i64> = head.get(6);
        if let Some(why) = differs(&known, &epoch, cursor, change_seq, pruned.unwrap_or(0)) {
            return Ok(Caught::Afresh(why));
        }
        Ok(Caught::News(News { change_seq, items: items_of(&computes, &observed)? }))
    }

    /// Takes the session; whoever succeeds puts it back, so that after a failure a new one is made.
    async fn connected(&mut self) -> Result<Open, DbError> {
        if let Some(open) = self.open.take().filter(|open| !open.session.is_closed()) {
            return Ok(open);
        }
        let session = self.db.connector().session(SessionKind::Follow).await?;
        let prepare = async {
            let client = session.client();
            let (head, computes, observed) =
                tokio::try_join!(client.prepare(HEAD), client.prepare(COMPUTES_ABOVE), client.prepare(OBSERVED_ABOVE))
                    .map_err(DbError::query("prepared to follow"))?;
            Ok((head, computes, observed))
        };
        let (head, computes, observed) = bounded(self.db.connector().patience(), "prepared to follow", prepare).await?;
        Ok(Open { session, head, computes, observed })
    }
}

fn differs(known: &Epoch, found: &Epoch, cursor: i64, change_seq: i64, pruned: i64) -> Option<Afresh> {
    if known.system != found.system || known.cluster_id != found.cluster_id {
        Some(Afresh::Identity)
    } else if known.timeline != found.timeline {
        Some(Afresh::Timeline)
    } else if known.schema != found.schema {
        Some(Afresh::Schema)
    } else if change_seq < cursor {
        Some(Afresh::LostChanges)
    } else if pruned > cursor {
        Some(Afresh::Pruned)
    } else {
        (known.started != found.started).then_some(Afresh::Restarted)
    }
}

/// Head, computes and observations above `cursor`, sent in one go. A statement that fails makes the later ones fail, too;
/// the first failure is the cause.
async fn read_above(open: &Open, cursor: i64) -> Result<(Row, Vec<Row>, Vec<Row>), DbError> {
    const DOING: &str = "caught up";
    let client = open.session.client();
    let above: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&cursor];
    let (begun, head, computes, observed, ended) = tokio::join!(
        biased;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        client.query_one(&open.head, &[]),
        client.query(&open.computes, &above),
        client.query(&open.observed, &above),
        client.batch_execute("COMMIT"),
    );
    begun.map_err(DbError::query(DOING))?;
    let head = head.map_err(DbError::query(DOING))?;
    let computes = computes.map_err(DbError::query(DOING))?;
    let observed = observed.map_err(DbError::query(DOING))?;
    ended.map_err(DbError::query(DOING))?;
    Ok((head, computes, observed))
}

/// What is in the database above `last`, in the order of the changes, as the caller's transaction sees it.
pub(crate) async fn above(client: &Client, last: i64) -> Result<Vec<Item>, DbError> {
    const DOING: &str = "read what was committed";
    let computes = client.query(COMPUTES_ABOVE, &[&last]).await.map_err(DbError::query(DOING))?;
    let observed = client.query(OBSERVED_ABOVE, &[&last]).await.map_err(DbError::query(DOING))?;
    let mut items = items_of(&computes, &observed)?;
    items.sort_by_key(Item::change_seq);
    Ok(items)
}

pub(crate) fn head_of(row: &Row) -> (i64, Epoch) {
    let epoch = Epoch {
        cluster_id: ClusterId(row.get(1)),
        schema: row.get(2),
        timeline: row.get(3),
        system: row.get(4),
        started: row.get(5),
    };
    (row.get(0), epoch)
}

/// Computes first: what is observed belongs to one that is known.
fn items_of(computes: &[Row], observed: &[Row]) -> Result<Vec<Item>, DbError> {
    let mut items = Vec::with_capacity(computes.len() + observed.len());
    for row in computes {
        items.push(if row.get(10) {
            Item::Deleted { compute_id: compute_id_of(row.get(0))?, change_seq: row.get(6) }
        } else {
            let observed = row.get::<_, Option<JsonBytes<'_>>>(11).map(observed_of).transpose()?.map(Box::new);
            Item::Compute { record: record_of(row)?, observed }
        });
    }
    for row in observed {
        items.push(Item::Observed {
            compute_id: compute_id_of(row.get(0))?,
            observed: Box::new(observed_of(row.get(1))?),
            change_seq: row.get(2),
        });
    }
    Ok(items)
}

pub(crate) fn record_of(row: &Row) -> Result<ComputeRecord, DbError> {
    record_with(row, labels_of(row.get(2))?)
}

/// A row of [`columns`], with its labels as somebody has read them.
pub(crate) fn record_with(row: &Row, labels: Labels) -> Result<ComputeRecord, DbError> {
    let policy = policy_of(row.get(9));
    Ok(ComputeRecord {
        compute_id: compute_id_of(row.get(0))?,
        agent_url: row.get(1),
        labels,
        generation: Generation(row.get(3)),
        suspend_timeout_s: timeout_of(row.get(4)).filter(|_| wants_timeout(policy)),
        spec_hash: spec_hash_of(row.get(5))?,
        policy,
        change_seq: row.get(6),
        created_at: row.get(7),
        updated_at: row.get(8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_load_stale() {
        let known = Epoch {
            cluster_id: ClusterId(uuid::Uuid::nil()),
            schema: "2:b".to_owned(),
            timeline: "00000001".to_owned(),
            system: 7,
            started: "2026-11-24 10:00:00+00".to_owned(),
        };
        let restarted = Epoch { started: "2026-11-24 10:00:09+00".to_owned(), ..known.clone() };
        let promoted = Epoch { timeline: "00000002".to_owned(), ..known.clone() };
        let restored = Epoch { system: 8, ..promoted.clone() };
        let migrated = Epoch { schema: "3:c".to_owned(), ..known.clone() };
        for (found, change_seq, why) in [
            (&known, 5, None),
            (&known, 6, None),
            (&known, 4, Some(Afresh::LostChanges)),
            (&promoted, 9, Some(Afresh::Timeline)),
            (&restored, 9, Some(Afresh::Identity)),
            (&migrated, 5, Some(Afresh::Schema)),
            (&restarted, 5, Some(Afresh::Restarted)),
            (&restarted, 4, Some(Afresh::LostChanges)),
        ] {
            assert_eq!(differs(&known, found, 5, change_seq, 5), why);
        }
        assert_eq!(differs(&known, &known, 5, 9, 6), Some(Afresh::Pruned));
    }
}
