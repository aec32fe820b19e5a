//! What other rooms may ask PostgreSQL: sessions that cannot write, few at a time, each with limits.
//!
//! Called by `http`, `report` and `inventory`. The questions of the door that are longer than a statement have files of
//! their own: `statements` (`/insights`) and `dump` (`/database_schema`).

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::errands::{CatalogObjects, ListedDatabase, ListedRole};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Client;

use super::Postgres;
use super::ask::{AskError, Manner, within};

/// Sessions at a time: they come out of `superuser_reserved_connections`, which is 3 unless somebody changed it.
const SESSIONS: usize = 3;
/// How long a question waits for one of them.
const PLACE_LIMIT: Duration = Duration::from_secs(5);
/// How long a question may take altogether.
const ASK_LIMIT: Duration = Duration::from_secs(30);

const ROLES: &str = "SELECT rolname, rolpassword FROM pg_authid ORDER BY rolname";
const NAMES: &str = "SELECT rolname FROM pg_roles ORDER BY rolname";
const DATABASES: &str = "SELECT datname, pg_get_userbyid(datdba), NOT datallowconn, datconnlimit = -2 \
                         FROM pg_database ORDER BY datname";
const CONNECTABLE: &str = "SELECT datname FROM pg_database \
                           WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname LIMIT $1";
const EXTENSIONS: &str = "SELECT e.extname, e.extversion, r.rolsuper FROM pg_extension e \
                          JOIN pg_roles r ON r.oid = e.extowner";

/// A reader of one PostgreSQL. Clones share its places.
#[derive(Debug, Clone)]
pub struct ReadOnly {
    pub(super) postgres: Postgres,
    places: Arc<Semaphore>,
    pub(super) dumps: Arc<Semaphore>,
}

/// An extension in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledExtension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether its owner is a superuser.
    pub owned_by_superuser: bool,
}

/// A session and the place it holds.
pub(super) struct Reader {
    pub(super) client: Client,
    _place: OwnedSemaphorePermit,
}

impl ReadOnly {
    /// A reader of `postgres`.
    #[must_use]
    pub fn new(postgres: &Postgres) -> Self {
        let dumps = Arc::new(Semaphore::new(super::dump::DUMPS));
        Self { postgres: postgres.clone(), places: Arc::new(Semaphore::new(SESSIONS)), dumps }
    }

    /// A session in `database`, or in the agent's own.
    pub(super) async fn reader(&self, database: Option<&str>, purpose: &'static str) -> Result<Reader, AskError> {
        let place = tokio::time::timeout(PLACE_LIMIT, Arc::clone(&self.places).acquire_owned());
        let Ok(Ok(place)) = place.await else { return Err(AskError::Busy(SESSIONS)) };
        let database = database.unwrap_or(&self.postgres.options().database);
        let client = self.postgres.session_for(database, purpose, Manner::Reading).await?;
        Ok(Reader { client, _place: place })
    }

    /// Every role and database.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn roles_and_databases(&self, with_verifiers: bool) -> Result<CatalogObjects, AskError> {
        within(ASK_LIMIT, async {
            let reader = self.reader(None, "compute_ctl:dbs_and_roles").await?;
            let rows = reader.client.query(if with_verifiers { ROLES } else { NAMES }, &[]).await?;
            let roles = rows.iter().map(|row| ListedRole {
                name: row.get(0),
                encrypted_password: with_verifiers.then(|| row.get(1)),
                options: None,
            });
            let roles = roles.collect();
            let rows = reader.client.query(DATABASES, &[]).await?;
            let databases = rows.iter().map(|row| ListedDatabase {
                name: row.get(0),
                owner: row.get(1),
                options: None,
                restrict_conn: row.get(2),
                invalid: row.get(3),
            });
            Ok(CatalogObjects { roles, databases: databases.collect() })
        })
        .await
    }

    /// The first `limit` databases that can be connected to and are no templates.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn databases(&self, limit: u32) -> Result<Vec<String>, AskError> {
        within(ASK_LIMIT, async {
            let reader = self.reader(None, "compute_ctl:extensions").await?;
            let rows = reader.client.query(CONNECTABLE, &[&i64::from(limit)]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })
        .await
    }

    /// The extensions of one database.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked, or has no such database any more.
    pub async fn extensions(&self, database: &str) -> Result<Vec<InstalledExtension>, AskError> {
        within(ASK_LIMIT, async {
            let reader = self.reader(Some(database), "compute_ctl:extensions").await?;
            let rows = reader.client.query(EXTENSIONS, &[]).await?;
            let found = rows.iter().map(|row| InstalledExtension {
                name: row.get(0),
                version: row.get(1),
                owned_by_superuser: row.get(2),
            });
            Ok(found.collect())
        })
        .await
    }
}
