//! Migrations: what is pending, and running it.
//!
//! Called by: a leader that has just claimed, before it loads; a candidate asks what is pending. What it calls: `session`,
//! `compat`. Invariants: each migration is one transaction that begins with the fence, so a leader that was replaced
//! cannot migrate and a claim waits for the one that runs; it has a budget, so nobody leads without serving for ever; it
//! waits for locks of others only for a moment, because whoever wants the table meanwhile queues behind it; a step that
//! shuts older builds out waits until none of them is alive. What fails leaves nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use crate::Hook;
use crate::compat::{Older, admit, compat_in};
use crate::database::Database;
use crate::error::{DbError, ErrorClass};
use crate::lease::bounded;
use crate::release::Migration;
use crate::session::{Session, SessionKind};
use crate::term::{FENCE, LeaderTerm};

/// Key of the advisory lock around each migration ("pgfleet" in ASCII, then 2).
const MIGRATION_LOCK: i64 = 0x7067_666c_6565_7402;

/// The table of versions, in the shape that diesel's command line knows.
pub(crate) const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS __diesel_schema_migrations
    (version varchar(50) PRIMARY KEY NOT NULL, run_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP)";

/// How often a migration that others' locks hold up is tried; each time it waits for `lock_timeout`, a fifth of a lease.
const LOCK_TRIES: u32 = 3;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Limits and test doors of a run.
#[derive(Clone)]
pub struct MigrationOptions {
    /// How long one migration may take, all its tries together.
    pub budget: Duration,
    /// Awaited in each migration's transaction, after its SQL and before its commit; not counted.
    pub mid_migration: Option<Hook>,
}

impl Default for MigrationOptions {
    fn default() -> Self {
        Self { budget: Duration::from_secs(30), mid_migration: None }
    }
}

impl std::fmt::Debug for MigrationOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MigrationOptions")
            .field("budget", &self.budget)
            .field("mid_migration", &self.mid_migration.is_some())
            .finish()
    }
}

/// Why migrations were not run, or not to their end. What was committed before stays.
#[derive(Debug, Error)]
pub enum MigrationError {
    /// The fence found somebody else leading, or nobody.
    #[error("migration {name} was not run: this process does not lead any more")]
    NotLeader {
        /// The first one that was not run.
        name: String,
    },
    /// PostgreSQL refused one.
    #[error("migration {name} failed: {message}")]
    Failed {
        /// Its folder.
        name: String,
        /// What PostgreSQL said.
        message: String,
    },
    /// One took too long.
    #[error("migration {name} was given up: it took longer than its budget of {budget_ms} ms")]
    OverBudget {
        /// Its folder.
        name: String,
        /// What it may take.
        budget_ms: u128,
    },
    /// One never got a lock it needs.
    #[error("migration {name} was given up: other sessions hold locks that it needs ({tries} tries); end them")]
    Locked {
        /// Its folder.
        name: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A contract step while members that it shuts out are alive.
    #[error(
        "migration {name} was not run: it shuts out builds below {lowest}, and of these are alive: {}; \
         replace them first",
        list(older)
    )]
    ShutsOutMembers {
        /// Its folder.
        name: String,
        /// Lowest number that may lead after it.
        lowest: i32,
        /// Who is alive and below.
        older: Vec<Older>,
    },
    /// A contract step that shuts out the build that carries it; a defect of that build.
    #[error("migration {name} was not run: it shuts out builds below {lowest}, and this one is {number}")]
    ShutsOutItself {
        /// Its folder.
        name: String,
        /// Lowest number that may lead after it.
        lowest: i32,
        /// Number of this build.
        number: i32,
    },
    /// The directory cannot be used.
    #[error("the migrations directory {dir} cannot be used: {reason}", dir = dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The database failed around them.
    #[error("the database failed around the migrations")]
    Database(#[from] DbError),
}

fn list(older: &[Older]) -> String {
    older.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Database {
    /// Folder names of the migrations that this build carries and the schema lacks, in order. Only reads.
    ///
    /// # Errors
    /// [`MigrationError::Database`].
    pub async fn pending(&self) -> Result<Vec<String>, MigrationError> {
        Ok(self.not_applied().await?.iter().map(|migration| migration.name().to_owned()).collect())
    }

    /// Whether everything that this build carries has run.
    ///
    /// # Errors
    /// [`MigrationError::Database`].
    pub async fn nothing_pending(&self) -> Result<bool, MigrationError> {
        Ok(self.not_applied().await?.is_empty())
    }

    /// Runs what is pending and answers with the folder names of what was run. With nothing pending it is one read.
    ///
    /// Whoever stops waiting for it ends it: its session closes, and the migration under way is rolled back, or was
    /// committed under the fence.
    ///
    /// # Errors
    /// [`MigrationError::NotLeader`] if the fence fails; else the first that did not run is named.
    pub async fn migrate(
        &self,
        term: Arc<LeaderTerm>,
        options: MigrationOptions,
    ) -> Result<Vec<String>, MigrationError> {
        let mut done = Vec::new();
        for migration in self.not_applied().await? {
            let begun = Instant::now();
            if self.run_one(&migration, &term, &options).await? {
                let (name, term) = (migration.name(), term.term().get());
                let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(migration = name, term, duration_ms, "ran a migration");
                done.push(name.to_owned());
            }
        }
        Ok(done)
    }

    /// Told by a pooled connection, so that the usual hand-over, with nothing pending, opens no session.
    async fn not_applied(&self) -> Result<Vec<Migration>, DbError> {
        #[derive(QueryableByName)]
        struct Version {
            #[diesel(sql_type = diesel::sql_types::Text)]
            version: String,
        }
        let all = self.release().migrations();
        let mut conn = self.pooled("looked for pending migrations").await?;
        let there = diesel::sql_query(
            "SELECT relname::text AS version FROM pg_class WHERE oid = to_regclass('__diesel_schema_migrations')",
        );
        let there: Vec<Version> = diesel_async::RunQueryDsl::load(there, &mut conn)
            .await
            .map_err(DbError::diesel("looked for the table of migrations"))?;
        if there.is_empty() {
            return Ok(all.to_vec());
        }
        let applied = diesel::sql_query("SELECT version::text FROM __diesel_schema_migrations");
        let applied: Vec<Version> = diesel_async::RunQueryDsl::load(applied, &mut conn)
            .await
            .map_err(DbError::diesel("looked for pending migrations"))?;
        let pending = |migration: &&Migration| applied.iter().all(|done| done.version != migration.version());
        Ok(all.iter().filter(pending).cloned().collect())
    }

    /// Whether it was run by this call: another one of the same leader may have been faster.
    async fn run_one(
        &self,
        migration: &Migration,
        term: &LeaderTerm,
        options: &MigrationOptions,
    ) -> Result<bool, MigrationError> {
        let name = migration.name().to_owned();
        let deadline = Instant::now() + options.budget;
        let over_budget = |name| MigrationError::OverBudget { name, budget_ms: options.budget.as_millis() };
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.attempt(migration, term, options, deadline).await {
                Err(MigrationError::Database(error)) => error,
                outcome => return outcome,
            };
            let late = Instant::now() + PAUSE >= deadline;
            match error.class() {
                ErrorClass::LockTimeout if late || tries == LOCK_TRIES => {
                    return Err(MigrationError::Locked { name, tries });
                }
                ErrorClass::StatementTimeout if late => return Err(over_budget(name)),
                ErrorClass::LockTimeout
                | ErrorClass::Deadlock
                | ErrorClass::Serialization
                | ErrorClass::Connection
                | ErrorClass::Shutdown => {}
                ErrorClass::StatementTimeout
                | ErrorClass::Data
                | ErrorClass::Integrity
                | ErrorClass::Permission
                | ErrorClass::Other => return Err(refused(name, &error)),
            }
            if late {
                return Err(error.into());
            }
            tracing::warn!(migration = name, tries, reason = error.server_message(), "a migration is tried again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(
        &self,
        migration: &Migration,
        term: &LeaderTerm,
        options: &MigrationOptions,
        deadline: Instant,
    ) -> Result<bool, MigrationError> {
        let session = self.connector().session(SessionKind::Migration).await?;
        // PostgreSQL times each statement, and a migration may have many: the whole is timed here. Dropping the session
        // rolls back.
        let number = self.release().number();
        let ran = match timeout_at(deadline, run_in_transaction(&session, migration, term, number, deadline)).await {
            Ok(ran) => ran,
            Err(_) => {
                let (name, budget_ms) = (migration.name().to_owned(), options.budget.as_millis());
                return Err(MigrationError::OverBudget { name, budget_ms });
            }
        };
        if let (Ok(true), Some(hook)) = (&ran, &options.mid_migration) {
            hook().await;
        }
        let (end, doing) = match &ran {
            Ok(true) => ("COMMIT", "committed a migration"),
            Ok(false) | Err(_) => ("ROLLBACK", "rolled back a migration"),
        };
        let ended = bounded(self.connector().patience(), doing, execute(session.client(), end, doing)).await;
        match ran {
            Ok(true) => Ok(ended.map(|()| true)?),
            ran => ran,
        }
    }
}

/// Everything between the beginning and the end of a migration's transaction; whether its SQL was run.
async fn run_in_transaction(
    session: &Session,
    migration: &Migration,
    term: &LeaderTerm,
    number: i32,
    deadline: Instant,
) -> Result<bool, MigrationError> {
    const DOING: &str = "ran a migration";
    let client = session.client();
    execute(client, "BEGIN", DOING).await?;
    let (mine, me) = (term.term().get(), term.instance_id().0);
    if client.query_opt(FENCE, &[&mine, &me]).await.map_err(DbError::query(DOING))?.is_none() {
        return Err(MigrationError::NotLeader { name: migration.name().to_owned() });
    }
    limit_statements(client, deadline).await?;
    execute(client, &format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"), "waited for another migration").await?;
    execute(client, VERSIONS, DOING).await?;
    let done = "SELECT 1 FROM __diesel_schema_migrations WHERE version = $1";
    if client.query_opt(done, &[&migration.version()]).await.map_err(DbError::query(DOING))?.is_some() {
        return Ok(false);
    }
    let before = compat_in(client).await?;
    execute(client, migration.up(), DOING).await?;
    let note = "INSERT INTO __diesel_schema_migrations (version) VALUES ($1)";
    client.execute(note, &[&migration.version()]).await.map_err(DbError::query(DOING))?;
    admit(client, migration.name(), number, before, compat_in(client).await?).await?;
    Ok(true)
}

/// For the rest of the transaction: no statement runs past the deadline. `lock_timeout` is the session's.
pub(crate) async fn limit_statements(client: &Client, deadline: Instant) -> Result<(), DbError> {
    // Zero would be no limit; the server takes no more than this.
    let left_ms = deadline.saturating_duration_since(Instant::now()).as_millis().clamp(1, i32::MAX as u128);
    execute(client, &format!("SET LOCAL statement_timeout = {left_ms}"), "limited a migration").await
}

pub(crate) async fn execute(client: &Client, sql: &str, doing: &'static str) -> Result<(), DbError> {
    client.batch_execute(sql).await.map_err(DbError::query(doing))
}

/// What PostgreSQL has against a migration, with its code.
pub(crate) fn refused(name: String, error: &DbError) -> MigrationError {
    let message = match error.sqlstate() {
        Some(state) => format!("{} ({state})", error.server_message()),
        None => error.server_message(),
    };
    MigrationError::Failed { name, message }
}
