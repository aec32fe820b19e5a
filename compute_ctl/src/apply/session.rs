//! A session that does the work and leaves no trace of it in a log: verifiers pass through it.
//!
//! What keeps PostgreSQL silent is given when the session starts, before the first statement. A setting of a library that
//! is not loaded is a placeholder and does no harm. Commits are not waited for one by one; [`Session::flush`] makes all of
//! them durable.

use std::time::Duration;

use tokio_postgres::error::Severity;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::quote::one_line;
use super::step::Statement;
use crate::postgres::{LinkError, Postgres};

/// Settings of such a session.
const QUIET: [&str; 19] = [
    "log_statement=none",
    "log_min_error_statement=panic",
    "log_min_duration_statement=-1",
    "log_min_duration_sample=-1",
    "log_transaction_sample_rate=0",
    "log_duration=off",
    "log_parser_stats=off",
    "debug_print_parse=off",
    "debug_print_rewritten=off",
    "debug_print_plan=off",
    "track_activities=off",
    "pg_stat_statements.track=none",
    "auto_explain.log_min_duration=-1",
    "pgaudit.log=none",
    "synchronous_commit=off",
    // A time without a zone means the same on every server.
    "TimeZone=UTC",
    "default_transaction_isolation=read\\ committed",
    "default_transaction_deferrable=off",
    "role=none",
];

/// How long an ordinary statement may take.
pub(super) const ORDINARY: Duration = Duration::from_secs(60);
/// How long one that copies or removes a database may take.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// How much longer than a statement may take the agent waits for the answer.
const GRACE: Duration = Duration::from_secs(10);

/// PostgreSQL's refusal, fit to be shown.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) sqlstate: Option<String>,
    pub(super) message: String,
}

/// A statement did not work.
#[derive(Debug)]
pub(super) enum Trouble {
    /// PostgreSQL refused it; the session lives.
    Refused(Said),
    /// The session is gone.
    Lost(LinkError),
}

pub(super) struct Session {
    client: Client,
    limit: Duration,
}

impl Session {
    pub(super) async fn open(postgres: &Postgres, database: &str) -> Result<Self, LinkError> {
        let settings: String = QUIET.iter().map(|setting| format!(" -c {setting}")).collect();
        let client = postgres.connect_with(database, &settings).await?;
        Ok(Self { client, limit: ORDINARY })
    }

    /// Sets how long each of the next statements may take.
    pub(super) async fn allow(&mut self, limit: Duration) -> Result<(), LinkError> {
        if limit != self.limit {
            self.client.batch_execute(&format!("SET statement_timeout = {}", limit.as_millis())).await?;
            self.limit = limit;
        }
        Ok(())
    }

    pub(super) async fn run(&self, statements: &[Statement]) -> Result<(), Trouble> {
        for statement in statements {
            match statement {
                Statement::Run(sql) => self.send(sql).await.map_err(|error| trouble(error, None))?,
                Statement::RunWithSecret(sql, secret) => {
                    self.send(sql).await.map_err(|error| trouble(error, Some(secret)))?;
                }
                Statement::RunEach(query) => {
                    let rows = self.client.query_typed(query, &[]).await;
                    for row in rows.map_err(|error| trouble(error.into(), None))? {
                        self.send(row.get(0)).await.map_err(|error| trouble(error, None))?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn send(&self, sql: &str) -> Result<(), LinkError> {
        let limit = self.limit + GRACE;
        match tokio::time::timeout(limit, self.client.batch_execute(sql)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(LinkError::Silent(limit)),
        }
    }

    /// Makes everything that was committed so far, in any session, durable on this machine. A message in the log that
    /// nobody reads is what takes a commit along; standbys are not waited for.
    pub(super) async fn flush(&self) -> Result<(), LinkError> {
        self.send("SET synchronous_commit = local").await?;
        self.send("SELECT pg_logical_emit_message(true, 'pgfleet', '')").await
    }

    /// Waits until no session is left in a template: nobody can copy it while there is one.
    pub(super) async fn until_left(&self, database: &str) -> Result<(), LinkError> {
        const SESSIONS: &str =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND starts_with(application_name, 'compute_ctl')";
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < GRACE {
            let rows = self.client.query_typed(SESSIONS, &[(&database, Type::TEXT)]).await?;
            if rows.iter().all(|row| row.get::<_, i64>(0) == 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

fn trouble(error: LinkError, secret: Option<&str>) -> Trouble {
    let said = match &error {
        LinkError::Query(error) => refusal(error, secret),
        LinkError::Connect { .. } | LinkError::Reload(_) | LinkError::Silent(_) => None,
    };
    said.map_or(Trouble::Lost(error), Trouble::Refused)
}

/// What PostgreSQL answered, if it did and the session goes on.
fn refusal(error: &Error, secret: Option<&str>) -> Option<Said> {
    let said = error.as_db_error()?;
    let fatal = matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    (!fatal).then(|| shown(said, secret))
}

/// What PostgreSQL said when it did not let a session in, if the fault is the database's and not the server's.
pub(super) fn not_let_in(error: &LinkError) -> Option<Said> {
    let LinkError::Connect { source, .. } = error else { return None };
    let said = source.as_db_error()?;
    // It starts, stops or is full: those pass.
    let passes = said.code().code().starts_with("57") || said.code().code().starts_with("53");
    (!passes).then(|| shown(said, None))
}

fn shown(said: &tokio_postgres::error::DbError, secret: Option<&str>) -> Said {
    let message = match secret {
        // A syntax error quotes the text near it.
        Some(secret) => said.message().replace(secret, "<verifier>"),
        None => said.message().to_owned(),
    };
    Said { sqlstate: Some(said.code().code().to_owned()), message: one_line(&message) }
}
