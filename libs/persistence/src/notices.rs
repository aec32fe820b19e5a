//! What the database tells without being asked: LISTEN on a session of its own.
//!
//! Called by: the controller's chair (claims and releases) and its memory (committed batches). What it calls: `session`.
//! Invariants: a notice is a nudge, never the only way to learn something, because a session that ends loses those that
//! come before the next one listens; nothing is dropped while a session lives, a slow reader only slows it down.

use tokio::sync::mpsc;

use crate::database::Database;
use crate::error::DbError;
use crate::session::Session;

/// One NOTIFY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Where it was said, like [`crate::LEADER_CHANNEL`].
    pub channel: String,
    /// What was said.
    pub payload: String,
}

/// A session that listens. Dropping it ends the session.
pub struct Notices {
    heard: mpsc::Receiver<Notice>,
    _session: Session,
}

impl Notices {
    /// The next notice; `None` once the session has ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        self.heard.recv().await
    }

    /// What has arrived and was not taken yet, without waiting: several nudges are worth one look.
    pub fn try_next(&mut self) -> Option<Notice> {
        self.heard.try_recv().ok()
    }
}

impl Database {
    /// Listens on these channels. Everything that is notified after it returns is heard, so what was said before has to
    /// be read once after it. Its statements have no time limit; a dead server shows by the keep-alives of the connection.
    ///
    /// # Errors
    /// Any [`DbError`] of connecting.
    pub async fn listen(&self, channels: &[&str]) -> Result<Notices, DbError> {
        let (session, heard) = self.connector().listening().await?;
        let statements: Vec<String> =
            channels.iter().map(|channel| format!("LISTEN \"{}\"", channel.replace('"', "\"\""))).collect();
        session.client().batch_execute(&statements.join("; ")).await.map_err(DbError::query("began to listen"))?;
        Ok(Notices { heard, _session: session })
    }
}
