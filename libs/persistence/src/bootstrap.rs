//! First boot: the tables of leadership must exist before anybody can lead, hence before any migration may run.
//!
//! Called by: `Database::bootstrap`. The SQL is the first migration's own file, so there is one source of truth;
//! when that migration runs later, under the fence, it finds everything made and only writes its version down.

use pgfleet_api::ClusterId;

use crate::error::DbError;
use crate::session::{Connector, SessionKind};

/// The first migration. It is harmless to run again.
const CREATE_LEADER: &str = include_str!("../../../migrations/20261121000000_create_leader/up.sql");

/// Key of the advisory lock around the bootstrap ("pgfleet" in ASCII, then 1).
const BOOTSTRAP_LOCK: i64 = 0x7067_666c_6565_7401;

/// Makes what is missing, and tells the fleet's id. Any number of processes may do it at once.
pub(crate) async fn bootstrap(connector: &Connector) -> Result<ClusterId, DbError> {
    let session = connector.session(SessionKind::Control).await?;
    let client = session.client();
    let probe = "SELECT to_regclass('cluster') IS NOT NULL AND to_regclass('leader') IS NOT NULL
                        AND to_regclass('leader_history') IS NOT NULL";
    let there: bool =
        client.query_one(probe, &[]).await.map_err(DbError::query("looked for the leader tables"))?.get(0);
    if there {
        let row = client
            .query_opt("SELECT cluster_id FROM cluster", &[])
            .await
            .map_err(DbError::query("read the cluster id"))?;
        if let Some(row) = row {
            return Ok(ClusterId(row.get(0)));
        }
    }
    // Two plain CREATE TABLE IF NOT EXISTS race into a unique violation, so the lock comes first. It is taken with
    // no timeout: whoever holds it is done in a moment or dies with its session.
    let begin = format!(
        "BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({BOOTSTRAP_LOCK})"
    );
    client.batch_execute(&begin).await.map_err(DbError::query("waited for the bootstrap lock"))?;
    client.batch_execute(CREATE_LEADER).await.map_err(DbError::query("created the leader tables"))?;
    client
        .execute("INSERT INTO cluster (cluster_id) VALUES ($1) ON CONFLICT DO NOTHING", &[&ClusterId::generate().0])
        .await
        .map_err(DbError::query("minted the cluster id"))?;
    let row =
        client.query_one("SELECT cluster_id FROM cluster", &[]).await.map_err(DbError::query("read the cluster id"))?;
    client.batch_execute("COMMIT").await.map_err(DbError::query("committed the bootstrap"))?;
    Ok(ClusterId(row.get(0)))
}
