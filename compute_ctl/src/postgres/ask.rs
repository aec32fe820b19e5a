//! Short sessions for the door and for readings: what every one of them has in common.
//!
//! Called by [`ReadOnly`](super::ReadOnly) and [`Errands`](super::Errands). Invariants: every session has a deadline for
//! its making, a limit for each statement and a name that begins with `compute_ctl`; what PostgreSQL refuses is told by
//! its code, never by its text.

use std::time::Duration;

use pgfleet_runtime::Kind;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::Postgres;

/// A session that takes longer to make is given up.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// PostgreSQL was asked and there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It does not take connections, or one of them broke.
    #[error("PostgreSQL cannot be asked now")]
    Away(#[source] tokio_postgres::Error),
    /// It took too long.
    #[error("PostgreSQL did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// As many are asking as may.
    #[error("{0} requests of this kind are under way, which is the limit")]
    Busy(usize),
    /// What the question is about does not exist.
    #[error("there is no {what} {name:?}")]
    Unknown {
        /// Its kind.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The question does not fit what is there.
    #[error("{msg}")]
    Unfit {
        /// Field of the request.
        path: &'static str,
        /// Why.
        msg: String,
    },
    /// PostgreSQL refuses.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Refused {
        /// Its code.
        sqlstate: String,
        /// Its message.
        message: String,
    },
    /// A program beside PostgreSQL failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its own last word, or the system's.
        said: String,
    },
}

impl From<tokio_postgres::Error> for AskError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else { return Self::Away(error) };
        // Class 57: it is starting, ending, or ended the session.
        let away = said.code().code().starts_with("57P");
        let (sqlstate, message) = (said.code().code().to_owned(), said.message().to_owned());
        if away { Self::Away(error) } else { Self::Refused { sqlstate, message } }
    }
}

impl AskError {
    /// Whether PostgreSQL refused with this code.
    pub(super) fn is(&self, state: &SqlState) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if sqlstate == state.code())
    }
}

/// What a session may do and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manner {
    /// It reads.
    Reading,
    /// It writes.
    Writing,
}

impl Manner {
    /// Given at start, where they go over what a role or a database has set.
    const fn options(self) -> &'static str {
        match self {
            Self::Reading => {
                "-c default_transaction_read_only=on -c statement_timeout=10s -c lock_timeout=2s \
                 -c idle_in_transaction_session_timeout=10s -c search_path=pg_catalog"
            }
            Self::Writing => {
                "-c default_transaction_read_only=off -c statement_timeout=60s -c lock_timeout=10s \
                 -c idle_in_transaction_session_timeout=10s -c search_path=pg_catalog"
            }
        }
    }
}

impl Postgres {
    /// A session in `database`; `purpose` shows in `pg_stat_activity`.
    pub(super) async fn session_for(
        &self,
        database: &str,
        purpose: &'static str,
        manner: Manner,
    ) -> Result<Client, AskError> {
        let mut config = self.way_in(database, purpose, CONNECT_LIMIT);
        config.options(manner.options());
        // The limit of the client library ends with the socket; the greeting after it may hang as well.
        let connected = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls)).await;
        let (client, connection) =
            connected.map_err(|_| AskError::Timeout(CONNECT_LIMIT))?.map_err(AskError::from).map_err(|error| {
                if error.is(&SqlState::INVALID_CATALOG_NAME) {
                    AskError::Unknown { what: "database", name: database.to_owned() }
                } else {
                    error
                }
            })?;
        self.tasks.spawn("ask_connection", Kind::Worker, connection);
        Ok(client)
    }
}

/// Ends what takes longer than `limit`: a stopped backend never answers.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
    tokio::time::timeout(limit, work).await.map_err(|_| AskError::Timeout(limit))?
}
