//! Migrations: the embedded ones, and those of a directory for tests.
//!
//! Called by: a leader that has just claimed, before it loads. What it calls: diesel's migration harness, on a
//! connection of its own. Invariants: each migration is one transaction that begins with the fence, so a leader that
//! was replaced cannot migrate and a claim waits for the one that runs; an advisory lock keeps two apart; the work
//! runs on a blocking thread and ends by itself, whoever stops waiting for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diesel::migration::{Migration, MigrationConnection, MigrationSource};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, FileBasedMigrations, MigrationHarness, embed_migrations};
use thiserror::Error;

use crate::Hook;
use crate::database::Database;
use crate::error::DbError;
use crate::session::SessionKind;
use crate::term::LeaderTerm;

const EMBEDDED: EmbeddedMigrations = embed_migrations!("../../migrations");

/// Name of the newest embedded migration; the history of leadership keeps it.
const NEWEST: &str = "20261124000000_index_journal";

/// Key of the advisory lock around a run ("pgfleet" in ASCII, then 2).
const MIGRATION_LOCK: i64 = 0x7067_666c_6565_7402;

/// The connection as diesel's blocking harness wants it.
type Blocking = AsyncConnectionWrapper<AsyncPgConnection>;

/// Test doors of a run.
#[derive(Clone, Default)]
pub struct MigrationHooks {
    /// Awaited in each migration's transaction, after its SQL and before its commit.
    pub mid_migration: Option<Hook>,
}

impl std::fmt::Debug for MigrationHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MigrationHooks").field("mid_migration", &self.mid_migration.is_some()).finish()
    }
}

/// Why a run of migrations ended early. What was committed before stays.
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
    /// The thread they ran on is gone; a defect.
    #[error("the migrations ended without an answer")]
    Panicked,
}

/// Folder name of the newest migration this program carries.
pub(crate) const fn newest_embedded() -> &'static str {
    NEWEST
}

impl Database {
    /// Folder names of the migrations that have not run here, the embedded ones first.
    ///
    /// # Errors
    /// [`MigrationError::Directory`] or [`MigrationError::Database`].
    pub async fn pending(&self, dir: Option<&Path>) -> Result<Vec<String>, MigrationError> {
        let dir = dir.map(Path::to_path_buf);
        self.on_thread(move |conn| {
            let applied = applied(conn)?;
            Ok(all(dir.as_deref())?.iter().filter(|m| !applied.contains(&version(m))).map(name).collect())
        })
        .await
    }

    /// Runs what is pending and answers with the folder names of what was run. With nothing pending it is one read.
    ///
    /// # Errors
    /// [`MigrationError::NotLeader`] if the fence fails; [`MigrationError::Failed`] names the first that failed.
    pub async fn migrate(
        &self,
        term: Arc<LeaderTerm>,
        dir: Option<PathBuf>,
        hooks: MigrationHooks,
    ) -> Result<Vec<String>, MigrationError> {
        if self.nothing_pending(dir.as_deref()).await? {
            return Ok(Vec::new());
        }
        self.on_thread(move |conn| {
            exec(conn, &format!("SELECT pg_advisory_lock({MIGRATION_LOCK})"), "waited for another migration")?;
            let applied = applied(conn)?;
            let mut done = Vec::new();
            for migration in all(dir.as_deref())?.iter().filter(|m| !applied.contains(&version(m))) {
                run_one(conn, migration.as_ref(), &term, &hooks)?;
                tracing::info!(migration = %name(migration), term = term.term().get(), "ran a migration");
                done.push(name(migration));
            }
            Ok(done)
        })
        .await
    }

    /// Whether all have run. The usual case of a hand-over, told by a pooled connection: no thread, no new session, no lock.
    ///
    /// # Errors
    /// [`MigrationError::Directory`] or [`MigrationError::Database`].
    pub async fn nothing_pending(&self, dir: Option<&Path>) -> Result<bool, MigrationError> {
        #[derive(QueryableByName)]
        struct Version {
            #[diesel(sql_type = diesel::sql_types::Text)]
            version: String,
        }
        let mut conn = self.pooled("looked for pending migrations").await?;
        let there = diesel::sql_query(
            "SELECT relname::text AS version FROM pg_class WHERE oid = to_regclass('__diesel_schema_migrations')",
        );
        let there: Vec<Version> = diesel_async::RunQueryDsl::load(there, &mut conn)
            .await
            .map_err(DbError::diesel("looked for the table of migrations"))?;
        if there.is_empty() {
            return Ok(false);
        }
        let applied = diesel::sql_query("SELECT version::text FROM __diesel_schema_migrations");
        let applied: Vec<Version> = diesel_async::RunQueryDsl::load(applied, &mut conn)
            .await
            .map_err(DbError::diesel("looked for pending migrations"))?;
        Ok(all(dir)?.iter().all(|m| applied.iter().any(|done| done.version == version(m))))
    }

    /// Diesel's harness blocks, and panics on some runtimes and inside `select!`. A blocking thread has neither trouble.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Blocking) -> Result<T, MigrationError> + Send + 'static,
    ) -> Result<T, MigrationError> {
        let conn = self
            .connector()
            .diesel(SessionKind::Migration)
            .await
            .map_err(|error| DbError::Pool { doing: "connected for migrations", reason: error.to_string() })?;
        tokio::task::spawn_blocking(move || work(&mut Blocking::from(conn)))
            .await
            .map_err(|_| MigrationError::Panicked)?
    }
}

fn run_one(
    conn: &mut Blocking,
    migration: &dyn Migration<Pg>,
    term: &LeaderTerm,
    hooks: &MigrationHooks,
) -> Result<(), MigrationError> {
    enum Stop {
        NotLeader,
        Failed(String),
        Database(diesel::result::Error),
    }
    impl From<diesel::result::Error> for Stop {
        fn from(error: diesel::result::Error) -> Self {
            Self::Database(error)
        }
    }
    let outcome = conn.transaction::<(), Stop, _>(|conn| {
        if !fence(conn, term)? {
            return Err(Stop::NotLeader);
        }
        MigrationConnection::setup(conn)?;
        conn.run_migration(migration).map_err(|error| Stop::Failed(error.to_string()))?;
        if let Some(hook) = &hooks.mid_migration {
            tokio::runtime::Handle::current().block_on(hook());
        }
        Ok(())
    });
    let name = migration.name().to_string();
    match outcome {
        Ok(()) => Ok(()),
        Err(Stop::NotLeader) => Err(MigrationError::NotLeader { name }),
        Err(Stop::Failed(message)) => Err(MigrationError::Failed { name, message }),
        Err(Stop::Database(error)) => Err(DbError::diesel("ran a migration")(error).into()),
    }
}

fn fence(conn: &mut Blocking, term: &LeaderTerm) -> QueryResult<bool> {
    use crate::schema::leader;
    let row: Option<i64> = leader::table
        .filter(leader::term.eq(term.term().get()))
        .filter(leader::instance_id.eq(term.instance_id().0))
        .filter(leader::released_at.is_null())
        .select(leader::term)
        .for_key_share()
        .first(conn)
        .optional()?;
    Ok(row.is_some())
}

fn exec(conn: &mut Blocking, sql: &str, doing: &'static str) -> Result<(), MigrationError> {
    diesel::sql_query(sql).execute(conn).map(|_| ()).map_err(|error| DbError::diesel(doing)(error).into())
}

/// Only reads: a candidate asks this too, and must not make diesel's table of versions.
fn applied(conn: &mut Blocking) -> Result<Vec<String>, MigrationError> {
    use diesel::dsl::sql;
    use diesel::sql_types::Bool;
    let there: bool = diesel::select(sql::<Bool>("to_regclass('__diesel_schema_migrations') IS NOT NULL"))
        .get_result(conn)
        .map_err(DbError::diesel("looked for the table of migrations"))?;
    if !there {
        return Ok(Vec::new());
    }
    let versions = conn.applied_migrations().map_err(|error| DbError::content("table of migrations", error))?;
    Ok(versions.iter().map(ToString::to_string).collect())
}

fn all(dir: Option<&Path>) -> Result<Vec<Box<dyn Migration<Pg>>>, MigrationError> {
    let mut migrations =
        sorted(EMBEDDED.migrations().map_err(|error| DbError::content("set of embedded migrations", error))?);
    if let Some(dir) = dir {
        let unusable = |reason: String| MigrationError::Directory { dir: dir.to_path_buf(), reason };
        let source = FileBasedMigrations::from_path(dir).map_err(|error| unusable(error.to_string()))?;
        let more = source.migrations().map_err(|error| unusable(error.to_string()))?;
        migrations.extend(sorted(more));
    }
    Ok(migrations)
}

fn sorted(mut migrations: Vec<Box<dyn Migration<Pg>>>) -> Vec<Box<dyn Migration<Pg>>> {
    migrations.sort_by_key(version);
    migrations
}

#[expect(clippy::borrowed_box, reason = "the harness hands out boxed trait objects")]
fn version(migration: &Box<dyn Migration<Pg>>) -> String {
    migration.name().version().to_string()
}

#[expect(clippy::borrowed_box, reason = "the harness hands out boxed trait objects")]
fn name(migration: &Box<dyn Migration<Pg>>) -> String {
    migration.name().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_named() {
        let names: Vec<String> = all(None).unwrap().iter().map(name).collect();
        assert_eq!(names.last().map(String::as_str), Some(newest_embedded()));
    }
}
