//! What the journal has of one compute.

use std::time::Instant;

use pgfleet_api::ComputeId;
use pgfleet_api::compute::{HistoryPage, HistoryQuery};
use pgfleet_persistence::{JournalKind, Wanted};

use super::compute::{MAX_PAGE, PAGE, rule};
use super::watching::event;
use super::{Desk, Operation, ServiceError};

impl Desk {
    /// One page of a compute's journal, the newest line first; a deleted compute keeps its lines. Read by the leader, so
    /// that what it acknowledged is in it.
    ///
    /// # Errors
    /// A limit out of range, a compute that there is not and never was, the database does not answer, or this member
    /// does not lead.
    pub async fn history(&self, id: ComputeId, query: HistoryQuery) -> Result<HistoryPage, ServiceError> {
        let leading = self.leading()?;
        let limit = query.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(rule("limit", "limit is 1 to 1000"));
        }
        let kind = match query.kind.as_deref() {
            None => None,
            Some("action") => Some(JournalKind::Action),
            Some("transition") => Some(JournalKind::Transition),
            Some(_) => return Err(rule("kind", "kind is action or transition")),
        };
        let wanted = Wanted {
            before: query.cursor.unwrap_or(i64::MAX),
            since: query.since,
            until: query.until,
            kind,
            // One more than asked for tells whether there is a next page.
            limit: i64::from(limit) + 1,
        };
        let begun = Instant::now();
        let lines = self.database.history_page(&id, &wanted).await;
        self.metrics.took(Operation::Read, begun.elapsed());
        let mut lines = lines.map_err(|error| self.read_failed(error))?;
        if lines.is_empty() && wanted.is_everything() && leading.snapshot.get(&id).is_none() {
            return Err(ServiceError::UnknownCompute(id));
        }
        let more = lines.len() > limit as usize;
        lines.truncate(limit as usize);
        let next_cursor = lines.last().filter(|_| more).map(|line| line.change_seq);
        Ok(HistoryPage { lines: lines.into_iter().map(event).collect(), next_cursor })
    }
}
