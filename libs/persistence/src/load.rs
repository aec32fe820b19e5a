//! Reads of what was asked for and what was observed.
//!
//! Called by: the controller's follower, leader start-up and the history route. Invariant: a load is one snapshot.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use pgfleet_api::compute::Observed;
use pgfleet_api::{ClusterId, ComputeId, Generation, Term};
use serde_json::Value;

use crate::database::Database;
use crate::error::DbError;
use crate::records::{
    ComputeRecord, JournalEntry, JournalKind, LoadedState, SpecRecord, compute_id_of, labels_of, observed_of,
    spec_hash_of,
};
use crate::schema::{change_cursor, cluster, computes, journal, observed};

#[derive(Queryable, Selectable)]
#[diesel(table_name = computes)]
struct ComputeRow {
    compute_id: String,
    agent_url: String,
    labels: Value,
    generation: i64,
    spec: Option<Value>,
    spec_hash: Option<String>,
    change_seq: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = journal)]
pub(crate) struct JournalRow {
    at: DateTime<Utc>,
    change_seq: i64,
    compute_id: Option<String>,
    term: i64,
    kind: String,
    actor: String,
    reason: Option<String>,
    detail: Value,
}

struct Snapshot {
    change_seq: i64,
    cluster_id: uuid::Uuid,
    computes: Vec<ComputeRow>,
    observed: Vec<(String, Value)>,
}

impl Database {
    /// The whole state as of one moment: one REPEATABLE READ READ ONLY transaction.
    ///
    /// # Errors
    /// Any [`DbError`]; before the migrations the tables are missing.
    pub async fn load(&self) -> Result<LoadedState, DbError> {
        const DOING: &str = "loaded the state";
        let mut conn = self.pooled(DOING).await?;
        let snapshot = conn
            .build_transaction()
            .repeatable_read()
            .read_only()
            .run(async |conn| {
                let change_seq = change_cursor::table.select(change_cursor::last_change).first(conn).await?;
                let cluster_id = cluster::table.select(cluster::cluster_id).first(conn).await?;
                let computes = computes::table
                    .filter(computes::deleted_at.is_null())
                    .order(computes::compute_id)
                    .select(ComputeRow::as_select())
                    .load(conn)
                    .await?;
                let observed = observed::table
                    .order(observed::compute_id)
                    .select((observed::compute_id, observed::body))
                    .load(conn)
                    .await?;
                Ok::<_, diesel::result::Error>(Snapshot { change_seq, cluster_id, computes, observed })
            })
            .await
            .map_err(DbError::diesel(DOING))?;
        Ok(LoadedState {
            change_seq: snapshot.change_seq,
            cluster_id: ClusterId(snapshot.cluster_id),
            computes: snapshot.computes.into_iter().map(record_of).collect::<Result<_, _>>()?,
            observed: snapshot
                .observed
                .into_iter()
                .map(|(id, body)| Ok((compute_id_of(id)?, observed_of(body)?)))
                .collect::<Result<_, DbError>>()?,
        })
    }

    /// One compute with what was last observed of it, as of one moment; none if it is unknown or deleted.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn compute(&self, compute_id: &ComputeId) -> Result<Option<(ComputeRecord, Option<Observed>)>, DbError> {
        const DOING: &str = "read a compute";
        let mut conn = self.pooled(DOING).await?;
        let read: (Option<ComputeRow>, Option<Value>) = conn
            .build_transaction()
            .repeatable_read()
            .read_only()
            .run(async |conn| {
                let row = computes::table
                    .filter(computes::compute_id.eq(compute_id.as_str()))
                    .filter(computes::deleted_at.is_null())
                    .select(ComputeRow::as_select())
                    .first(conn)
                    .await
                    .optional()?;
                let body = observed::table
                    .filter(observed::compute_id.eq(compute_id.as_str()))
                    .select(observed::body)
                    .first(conn)
                    .await
                    .optional()?;
                Ok::<_, diesel::result::Error>((row, body))
            })
            .await
            .map_err(DbError::diesel(DOING))?;
        let (Some(row), body) = read else { return Ok(None) };
        Ok(Some((record_of(row)?, body.map(observed_of).transpose()?)))
    }

    /// The current spec of a compute; none if it is unknown, deleted or has none.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn spec(&self, compute_id: &ComputeId) -> Result<Option<SpecRecord>, DbError> {
        const DOING: &str = "read a spec";
        let mut conn = self.pooled(DOING).await?;
        let row: Option<(i64, Option<String>, Option<Value>)> = computes::table
            .filter(computes::compute_id.eq(compute_id.as_str()))
            .filter(computes::deleted_at.is_null())
            .select((computes::generation, computes::spec_hash, computes::spec))
            .first(&mut conn)
            .await
            .optional()
            .map_err(DbError::diesel(DOING))?;
        let Some((generation, hash, Some(spec))) = row else { return Ok(None) };
        let Some(spec_hash) = spec_hash_of(hash)? else { return Ok(None) };
        Ok(Some(SpecRecord { generation: Generation(generation), spec_hash, spec }))
    }

    /// The journal of a compute, newest first.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn history(&self, compute_id: &ComputeId, limit: i64) -> Result<Vec<JournalEntry>, DbError> {
        const DOING: &str = "read the journal";
        let mut conn = self.pooled(DOING).await?;
        let rows: Vec<JournalRow> = journal::table
            .filter(journal::compute_id.eq(compute_id.as_str()))
            .order(journal::change_seq.desc())
            .limit(limit)
            .select(JournalRow::as_select())
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        rows.into_iter().map(entry_of).collect()
    }
}

fn record_of(row: ComputeRow) -> Result<ComputeRecord, DbError> {
    Ok(ComputeRecord {
        compute_id: compute_id_of(row.compute_id)?,
        agent_url: row.agent_url,
        labels: labels_of(row.labels)?,
        generation: Generation(row.generation),
        spec: row.spec.map(Arc::new),
        spec_hash: spec_hash_of(row.spec_hash)?,
        change_seq: row.change_seq,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}

pub(crate) fn entry_of(row: JournalRow) -> Result<JournalEntry, DbError> {
    Ok(JournalEntry {
        at: row.at,
        change_seq: row.change_seq,
        compute_id: row.compute_id.map(compute_id_of).transpose()?,
        term: Term(row.term),
        kind: JournalKind::parse(&row.kind)?,
        actor: row.actor,
        reason: row.reason,
        detail: row.detail,
    })
}
