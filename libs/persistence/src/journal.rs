//! The journal in the order of the changes, for whoever watches the whole fleet.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::database::Database;
use crate::error::DbError;
use crate::load::{JournalRow, entry_of};
use crate::records::JournalEntry;
use crate::schema::journal;

impl Database {
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
