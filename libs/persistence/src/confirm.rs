//! The question whether a term still leads: what makes a read from memory as good as one in the database.
//!
//! Called by the controller's leadership room. What it calls: `session`. Invariants: it only reads; an answer belongs to the
//! question it was asked for, because a session whose question was given up is dropped.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::Term;
use tokio_postgres::Statement;

use crate::database::Database;
use crate::error::DbError;
use crate::lease::bounded;
use crate::session::Session;

const DOING: &str = "asked whether this term still leads";

const STILL_LEADS: &str = "SELECT FROM leader WHERE term = $1 AND instance_id = $2 AND released_at IS NULL";

/// A dedicated connection for one question. It connects when first used and again after any failure.
pub struct ConfirmSession {
    db: Arc<Database>,
    open: Option<(Session, Statement)>,
}

impl ConfirmSession {
    /// A session that will connect when it is first used.
    #[must_use]
    pub fn new(db: Arc<Database>) -> Self {
        Self { db, open: None }
    }

    /// Connects, if it is not connected, while nobody waits for it.
    ///
    /// # Errors
    /// Any [`DbError`]; the next call tries again.
    pub async fn warm_up(&mut self) -> Result<(), DbError> {
        bounded(self.patience(), DOING, self.connected()).await?;
        Ok(())
    }

    /// Whether this instance still holds this term, at a moment between the call and its end: no claim of a later term was
    /// committed before the call.
    ///
    /// # Errors
    /// Any [`DbError`]: nothing is known.
    pub async fn still_leads(&mut self, term: Term) -> Result<bool, DbError> {
        let (me, number, patience) = (self.db.instance_id().0, term.get(), self.patience());
        let asking = async {
            let (session, question) = self.connected().await?;
            session.client().query(question, &[&number, &me]).await.map_err(DbError::query(DOING))
        };
        let answer = bounded(patience, DOING, asking).await;
        if answer.is_err() {
            self.open = None;
        }
        answer.map(|rows| !rows.is_empty())
    }

    async fn connected(&mut self) -> Result<&(Session, Statement), DbError> {
        let open = match self.open.take().filter(|(session, _)| !session.is_closed()) {
            Some(open) => open,
            None => {
                let session = self.db.control_session().await?;
                let question = session.client().prepare(STILL_LEADS).await.map_err(DbError::query(DOING))?;
                (session, question)
            }
        };
        Ok(self.open.insert(open))
    }

    /// Requests wait for the answer, and another connection may be a better one.
    fn patience(&self) -> Duration {
        self.db.connector().patience() / 5
    }
}

impl std::fmt::Debug for ConfirmSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfirmSession").field("open", &self.open.is_some()).finish_non_exhaustive()
    }
}
