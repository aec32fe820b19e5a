//! A whole load: everything as of one moment, as fast as the database can say it.
//!
//! Called by: `follow`, when there is nothing to follow on from. What it calls: `session`.
//!
//! ```text
//!   own session   BEGIN · head · export the snapshot ──▶ computes, in the order of the table ─┐
//!   second one                 take the same snapshot ──▶ what is observed, likewise ─────────┴─▶ sorted by id
//! ```
//!
//! Why two sessions: both tables are as large as the fleet, and two processors of the server and two of ours read them side
//! by side. Why no join, order or page: each costs more than the sort here, and a page costs a round trip. Invariants: both
//! transactions are REPEATABLE READ READ ONLY on the same exported snapshot, so the head read in it is the cursor of all of
//! it; no text of a spec is read; the rows that are on their way are bounded by the driver, which reads on when they are taken.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use pgfleet_api::ComputeId;
use pgfleet_api::compute::Observed;
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::database::Database;
use crate::error::DbError;
use crate::follow::{Epoch, Open, columns, head_of, record_with};
use crate::lease::bounded;
use crate::records::{ComputeRecord, JsonBytes, Labels, LoadedState, compute_id_of, labels_of, observed_of};
use crate::session::SessionKind;

const DOING: &str = "loaded the state";

/// Rows within which the database has to show that it goes on.
const STRETCH: usize = 1024;

/// The sessions that follow have scans of tables switched off, for catch-ups. Here a scan is what is wanted.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = on";

const COMPUTES: &str = concat!("SELECT ", columns!(), " FROM computes c WHERE c.deleted_at IS NULL");

const OBSERVED: &str = "SELECT compute_id, observed FROM observed";

/// Everything, and what it is part of. After an error the session is of no use any more.
pub(crate) async fn load(db: &Database, open: &Open) -> Result<(LoadedState, Epoch), DbError> {
    let patience = db.connector().patience();
    let (client, failed) = (open.session.client(), || DbError::query(DOING));
    let begin = async {
        let second = db.connector().session(SessionKind::Follow);
        let first = async {
            client.batch_execute(BEGIN).await.map_err(failed())?;
            let head = client.query_one(&open.head, &[]).await.map_err(failed())?;
            let shared = client.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(failed())?;
            Ok::<_, DbError>((head, shared.get::<_, String>(0)))
        };
        let (second, (head, shared)) = tokio::try_join!(second, first)?;
        let taken = format!("{BEGIN}; SET TRANSACTION SNAPSHOT '{shared}'");
        second.client().batch_execute(&taken).await.map_err(failed())?;
        Ok((second, head))
    };
    let (second, head) = bounded(patience, DOING, begin).await?;
    let mut beside = JoinSet::new();
    beside.spawn(async move {
        let observed = observed(second.client(), patience).await?;
        bounded(patience, DOING, async {
            second.client().batch_execute("COMMIT").await.map_err(DbError::query(DOING))
        })
        .await?;
        Ok::<_, DbError>(observed)
    });
    let computes = computes(client, patience).await?;
    bounded(patience, DOING, async { client.batch_execute("COMMIT").await.map_err(failed()) }).await?;
    let observed = match beside.join_next().await {
        Some(Ok(observed)) => observed?,
        Some(Err(broken)) if broken.is_panic() => std::panic::resume_unwind(broken.into_panic()),
        Some(Err(_)) | None => return Err(DbError::SessionEnded { doing: DOING }),
    };
    let (change_seq, epoch) = head_of(&head);
    Ok((LoadedState { change_seq, cluster_id: epoch.cluster_id, computes, observed }, epoch))
}

async fn computes(client: &Client, patience: Duration) -> Result<Vec<ComputeRecord>, DbError> {
    let mut all = Vec::new();
    // Most computes have the labels of many others.
    let mut known: HashMap<Box<[u8]>, Labels> = HashMap::new();
    each(client, COMPUTES, patience, |row| {
        let JsonBytes(text) = row.get(2);
        let labels = match known.get(text) {
            Some(labels) => labels.clone(),
            None => {
                let labels = labels_of(JsonBytes(text))?;
                known.insert(text.into(), labels.clone());
                labels
            }
        };
        all.push(record_with(row, labels)?);
        Ok(())
    })
    .await?;
    all.sort_unstable_by(|one: &ComputeRecord, two| one.compute_id.cmp(&two.compute_id));
    all.shrink_to_fit();
    Ok(all)
}

async fn observed(client: &Client, patience: Duration) -> Result<Vec<(ComputeId, Observed)>, DbError> {
    let mut all = Vec::new();
    each(client, OBSERVED, patience, |row| {
        all.push((compute_id_of(row.get(0))?, observed_of(row.get(1))?));
        Ok(())
    })
    .await?;
    all.sort_unstable_by(|one: &(ComputeId, Observed), two| one.0.cmp(&two.0));
    Ok(all)
}

/// Takes the rows one by one as they come.
async fn each(
    client: &Client,
    sql: &str,
    patience: Duration,
    mut take: impl FnMut(&Row) -> Result<(), DbError>,
) -> Result<(), DbError> {
    let none: [&(dyn ToSql + Sync); 0] = [];
    let begun = async { client.query_raw(sql, none).await.map_err(DbError::query(DOING)) };
    let mut rows = Box::pin(bounded(patience, DOING, begun).await?);
    loop {
        let stretch = async {
            for _ in 0..STRETCH {
                match rows.try_next().await.map_err(DbError::query(DOING))? {
                    Some(row) => take(&row)?,
                    None => return Ok(false),
                }
            }
            Ok(true)
        };
        if !bounded(patience, DOING, stretch).await? {
            return Ok(());
        }
    }
}
