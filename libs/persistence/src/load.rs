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

/// Which lines of a compute's journal are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Only changes before this one.
    pub before: i64,
    /// Only from this moment on.
    pub since: Option<DateTime<Utc>>,
    /// Only before this moment.
    pub until: Option<DateTime<Utc>>,
    /// Only of this kind.
    pub kind: Option<JournalKind>,
    /// At most so many.
    pub limit: i64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { before: i64::MAX, since: None, until: None, kind: None, limit: 100 }
    }
}

impl Wanted {
    /// Whether nothing is left out but by the limit.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.before == i64::MAX && self.since.is_none() && self.until.is_none() && self.kind.is_none()
    }
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
        self.history_page(compute_id, &Wanted { limit, ..Wanted::default() }).await
    }

    /// Some of the journal of a compute, newest first.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn history_page(&self, compute_id: &ComputeId, wanted: &Wanted) -> Result<Vec<JournalEntry>, DbError> {
        const DOING: &str = "read the journal";
        let mut conn = self.pooled(DOING).await?;
        let mut lines = journal::table
            .filter(journal::compute_id.eq(compute_id.as_str().to_owned()))
            .filter(journal::change_seq.lt(wanted.before))
            .order(journal::change_seq.desc())
            .limit(wanted.limit)
            .select(JournalRow::as_select())
            .into_boxed();
        if let Some(since) = wanted.since {
            lines = lines.filter(journal::at.ge(since));
        }
        if let Some(until) = wanted.until {
            lines = lines.filter(journal::at.lt(until));
        }
        if let Some(kind) = wanted.kind {
            lines = lines.filter(journal::kind.eq(kind.as_str()));
        }
        let rows: Vec<JournalRow> = lines.load(&mut conn).await.map_err(DbError::diesel(DOING))?;
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
