//! Single reads: the spec and the journal of a compute, called by the routes of the same name, and the journal of the whole
//! fleet in the order of the changes, for whoever watches it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use pgfleet_api::{ComputeId, Generation, Term};
use serde_json::Value;

use crate::database::Database;
use crate::error::DbError;
use crate::records::{JournalEntry, JournalKind, SpecRecord, compute_id_of, spec_hash_of};
use crate::schema::{computes, journal};

#[derive(Queryable, Selectable)]
#[diesel(table_name = journal)]
struct JournalRow {
    at: DateTime<Utc>,
    change_seq: i64,
    compute_id: Option<String>,
    term: i64,
    kind: String,
    actor: String,
    reason: Option<String>,
    detail: Value,
}

impl Database {
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
        let Some(spec_hash) = spec_hash_of(hash.as_deref())? else { return Ok(None) };
        Ok(Some(SpecRecord { generation: Generation(generation), spec_hash, spec }))
    }

    /// The journal of a compute, newest first.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn history(&self, compute_id: &ComputeId, limit: i64) -> Result<Vec<JournalEntry>, DbError> {
        self.history_before(compute_id, i64::MAX, limit).await
    }

    /// The journal of a compute before a change, newest first.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn history_before(
        &self,
        compute_id: &ComputeId,
        change_seq: i64,
        limit: i64,
    ) -> Result<Vec<JournalEntry>, DbError> {
        const DOING: &str = "read the journal";
        let mut conn = self.pooled(DOING).await?;
        let rows: Vec<JournalRow> = journal::table
            .filter(journal::compute_id.eq(compute_id.as_str()))
            .filter(journal::change_seq.lt(change_seq))
            .order(journal::change_seq.desc())
            .limit(limit)
            .select(JournalRow::as_select())
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        rows.into_iter().map(entry_of).collect()
    }

    /// At most `limit` lines after a change, the oldest first. A change that says nothing new to a person has none.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn journal_after(&self, change_seq: i64, limit: i64) -> Result<Vec<JournalEntry>, DbError> {
        const DOING: &str = "read the journal's tail";
        let mut conn = self.pooled(DOING).await?;
        let rows: Vec<JournalRow> = journal::table
            .filter(journal::change_seq.gt(change_seq))
            .order(journal::change_seq)
            .limit(limit)
            .select(JournalRow::as_select())
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        rows.into_iter().map(entry_of).collect()
    }
}

fn entry_of(row: JournalRow) -> Result<JournalEntry, DbError> {
    Ok(JournalEntry {
        at: row.at,
        change_seq: row.change_seq,
        compute_id: row.compute_id.as_deref().map(compute_id_of).transpose()?,
        term: Term(row.term),
        kind: JournalKind::parse(&row.kind)?,
        actor: row.actor,
        reason: row.reason,
        detail: row.detail,
    })
}
