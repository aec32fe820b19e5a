//! Use case: watch everything that is committed, in order, from any point on.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_api::bulk::WatchEvent;
use pgfleet_persistence::{Database, JournalEntry};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Desk, Operation, ServiceError};
use crate::leadership::Handle;

/// Lines that are read and kept at a time.
const BATCH: i64 = 256;
/// Between two reads of one watcher: under a flood of changes it reads more at once and not more often.
const PACE: Duration = Duration::from_millis(10);
/// Between two tries while the database does not answer.
const RETRY: Duration = Duration::from_millis(200);
/// Silence that a watcher is spared.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A watch under way. It ends with the leadership; whoever goes on asks the next leader from the last change it has.
pub struct Watching {
    chair: Handle,
    database: Arc<Database>,
    term: Term,
    committed: watch::Receiver<i64>,
    cursor: i64,
    read_at: Option<Instant>,
}

impl Desk {
    /// Begins to watch after a change; without one, from now on.
    ///
    /// # Errors
    /// [`ServiceError::NotLeading`]; [`ServiceError::CursorPruned`] where something after it is not kept any more.
    pub async fn watch(&self, from: Option<i64>) -> Result<Watching, ServiceError> {
        let leading = self.leading()?;
        let committed = leading.committed.clone();
        let now = *committed.borrow();
        if let Some(from) = from {
            let begun = std::time::Instant::now();
            let pruned = self.database.pruned().await;
            self.metrics.took(Operation::Read, begun.elapsed());
            let oldest = pruned.map_err(|error| self.read_failed(error))?.journal;
            if from < oldest {
                return Err(ServiceError::CursorPruned { oldest });
            }
        }
        Ok(Watching {
            chair: self.leadership.clone(),
            database: self.database.clone(),
            term: leading.term,
            committed,
            cursor: from.unwrap_or(now),
            read_at: None,
        })
    }
}

impl Watching {
    /// The last change that was passed on, or that was begun after.
    #[must_use]
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// The next events, in order; none after a long silence. `None`: this member does not lead any more.
    pub async fn next(&mut self) -> Option<Vec<WatchEvent>> {
        loop {
            let last = *self.committed.borrow_and_update();
            if last > self.cursor {
                match self.read().await? {
                    // Nothing that a person would call a change.
                    lines if lines.is_empty() => self.cursor = last,
                    lines => return Some(lines),
                }
                continue;
            }
            tokio::select! {
                changed = self.committed.changed() => changed.ok()?,
                () = self.chair.left(self.term) => return None,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(Vec::new()),
            }
        }
    }

    /// Whether lines that this watcher has not read may be gone.
    async fn is_pruned(&self) -> bool {
        // A read that fails says nothing; the next one tells.
        self.database.pruned().await.is_ok_and(|pruned| pruned.journal > self.cursor)
    }

    async fn read(&mut self) -> Option<Vec<WatchEvent>> {
        let mut pause = self.read_at.map_or(Duration::ZERO, |at| PACE.saturating_sub(at.elapsed()));
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.chair.left(self.term) => return None,
            }
            match self.database.journal_after(self.cursor, BATCH).await {
                // Asked after the lines: what was pruned before they were read is told by it. The client asks again from where
                // it is, and hears why.
                Ok(_) if self.is_pruned().await => return None,
                Ok(lines) => {
                    self.read_at = Some(Instant::now());
                    self.cursor = lines.last().map_or(self.cursor, |line| line.change_seq);
                    return Some(lines.into_iter().map(event).collect());
                }
                Err(error) => {
                    tracing::warn!(%error, cursor = self.cursor, "a watcher waits for the database");
                    pause = RETRY;
                }
            }
        }
    }
}

/// A line of the journal, as the API tells it.
pub(super) fn event(line: JournalEntry) -> WatchEvent {
    WatchEvent {
        change_seq: line.change_seq,
        at: line.at,
        compute_id: line.compute_id,
        term: line.term,
        kind: line.kind.as_str().to_owned(),
        actor: line.actor,
        reason: line.reason,
        detail: line.detail,
    }
}
