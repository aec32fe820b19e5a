//! Small writes that the door may ask for: an extension, a proof that the server takes writes. Grants are in `grants`.
//!
//! One at a time: two that change the same catalog row would fail each other. Each reads first and writes only what is
//! not so yet, so that a repeated one is a no-op, also on a replica.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::errands::ExtensionRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::Postgres;
use super::ask::{AskError, Manner, within};

/// How long one may take, with its turn.
const LIMIT: Duration = Duration::from_secs(120);

/// What is known about an extension: its version here, the one wanted, whether that can be made, and how.
const EXTENSION: &str = "SELECT (SELECT extversion FROM pg_extension WHERE extname = a.name), \
    coalesce($2::text, a.default_version), v.name IS NOT NULL, \
    format('CREATE EXTENSION IF NOT EXISTS %I %s VERSION %L', a.name, \
        CASE WHEN v.schema IS NULL THEN 'SCHEMA public' ELSE '' END, coalesce($2::text, a.default_version)), \
    format('ALTER EXTENSION %I UPDATE TO %L', a.name, coalesce($2::text, a.default_version)) \
    FROM pg_available_extensions a LEFT JOIN pg_available_extension_versions v \
        ON v.name = a.name AND v.version = coalesce($2::text, a.default_version) WHERE a.name = $1";
const VERSION: &str = "SELECT extversion FROM pg_extension WHERE extname = $1";
const WRITE: &str = "INSERT INTO public.health_check (id, updated_at) VALUES (1, now()) \
                     ON CONFLICT (id) DO UPDATE SET updated_at = now()";

/// A writer of one PostgreSQL. Clones wait for each other.
#[derive(Debug, Clone)]
pub struct Errands {
    postgres: Postgres,
    turn: Arc<Semaphore>,
}

/// A session and the turn it has.
pub(super) struct Writer {
    pub(super) client: Client,
    _turn: OwnedSemaphorePermit,
}

impl Errands {
    /// A writer of `postgres`.
    #[must_use]
    pub fn new(postgres: &Postgres) -> Self {
        Self { postgres: postgres.clone(), turn: Arc::new(Semaphore::new(1)) }
    }

    pub(super) async fn writer(&self, database: &str, purpose: &'static str) -> Result<Writer, AskError> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| AskError::Busy(1))?;
        let client = self.postgres.session_for(database, purpose, Manner::Writing).await?;
        Ok(Writer { client, _turn: turn })
    }

    /// Ends an errand that takes too long.
    pub(super) async fn within<T>(work: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
        within(LIMIT, work).await
    }

    /// Creates the extension, or brings it to the version; answers the version that is there.
    ///
    /// # Errors
    /// There is no such database or extension, or PostgreSQL refuses.
    pub async fn install_extension(&self, wanted: &ExtensionRequest) -> Result<String, AskError> {
        let name = &wanted.extension;
        Self::within(async {
            let writer = self.writer(&wanted.database, "compute_ctl:extensions").await?;
            let row = writer.client.query_opt(EXTENSION, &[name, &wanted.version]).await?;
            let row = row.ok_or_else(|| AskError::Unknown { what: "extension", name: name.clone() })?;
            let (installed, version): (Option<String>, String) = (row.get(0), row.get(1));
            let statement: String = match &installed {
                Some(installed) if *installed == version => return Ok(version),
                Some(_) => row.get(4),
                None if row.get(2) => row.get(3),
                None => {
                    let msg = format!("extension {name:?} has no version {version:?} in this installation");
                    return Err(AskError::Unfit { path: "version", msg });
                }
            };
            writer.client.batch_execute(&statement).await?;
            tracing::info!(database = wanted.database, extension = name, version, "an extension was installed");
            Ok(writer.client.query_one(VERSION, &[name]).await?.get(0))
        })
        .await
    }

    /// Writes a row. A full disk counts as success: the server works and its owner has to make room.
    ///
    /// # Errors
    /// PostgreSQL does not take the write, or there is no table for it.
    pub async fn check_writability(&self) -> Result<(), AskError> {
        let wrote = Self::within(async {
            let database = &self.postgres.options().database;
            let writer = self.writer(database, "compute_ctl:check_writability").await?;
            Ok(writer.client.batch_execute(WRITE).await?)
        });
        match wrote.await {
            Err(error) if error.is(&SqlState::DISK_FULL) => Ok(()),
            Err(error) if error.is(&SqlState::UNDEFINED_TABLE) => {
                Err(AskError::Unknown { what: "table", name: "public.health_check".to_owned() })
            }
            other => other,
        }
    }
}
