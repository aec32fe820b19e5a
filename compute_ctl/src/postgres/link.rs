//! Connections to the server, over its unix socket, as the superuser.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_runtime::Kind;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};

use super::Postgres;

/// PostgreSQL could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error("cannot connect to PostgreSQL on port {port}")]
    Connect {
        /// Its port.
        port: u16,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A query of the agent's own failed.
    #[error("PostgreSQL refused a query of the agent")]
    Query(#[from] tokio_postgres::Error),
    /// It did not answer.
    #[error("PostgreSQL did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The reload was not seen in time.
    #[error("PostgreSQL did not reload its configuration within {} s", .0.as_secs())]
    Reload(Duration),
}

/// A reload is a signal; this is how long its effect may take.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// By this name the agent's own sessions are told from others.
pub(super) const OWN_NAME: &str = "compute_ctl";

/// Settings of every session.
const LIMITS: &str =
    "-c statement_timeout=60s -c lock_timeout=10s -c search_path=pg_catalog -c default_transaction_read_only=off";

/// The moving end of a session.
pub(super) type Link = Connection<Socket, NoTlsStream>;

impl Postgres {
    /// A session of the superuser, with limits that keep a stuck statement from holding the agent for ever. It ends when
    /// the client is dropped.
    ///
    /// # Errors
    /// PostgreSQL does not take the connection.
    pub async fn connect(&self) -> Result<Client, LinkError> {
        self.connect_to(&self.options().database).await
    }

    /// Such a session in a database of its own.
    ///
    /// # Errors
    /// PostgreSQL does not take the connection.
    pub async fn connect_to(&self, database: &str) -> Result<Client, LinkError> {
        self.connect_with(database, "").await
    }

    /// Such a session with more settings, like `-c log_statement=none`. Given when it starts, they are in force before its
    /// first statement, and no setting of the database or the role overrides them.
    ///
    /// # Errors
    /// PostgreSQL does not take the connection.
    pub async fn connect_with(&self, database: &str, settings: &str) -> Result<Client, LinkError> {
        let (client, connection) = self.link_as(self.session_name, database, settings).await?;
        self.tasks.spawn("postgres_connection", Kind::Worker, connection);
        Ok(client)
    }

    pub(super) async fn link(&self, database: &str) -> Result<(Client, Link), LinkError> {
        self.link_as(OWN_NAME, database, "").await
    }

    async fn link_as(&self, name: &str, database: &str, settings: &str) -> Result<(Client, Link), LinkError> {
        let mut config = self.way_in(database, name, Duration::from_secs(10));
        config.options(format!("{LIMITS} {settings}"));
        config.connect(NoTls).await.map_err(|source| LinkError::Connect { port: self.options.port, source })
    }

    /// How every session of the agent comes in: as the superuser, over the unix socket, under a name of its own.
    pub(super) fn way_in(&self, database: &str, name: &str, connect_limit: Duration) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.options.socket_dir)
            .port(self.options.port)
            .user(self.options.superuser.as_str())
            .dbname(database)
            .application_name(name)
            .connect_timeout(connect_limit);
        config
    }

    /// Makes the server read its configuration and waits until it has.
    ///
    /// # Errors
    /// It cannot be asked, or does not do it in time.
    pub async fn reload(&self) -> Result<(), LinkError> {
        const LOADED: &str = "SELECT pg_conf_load_time()::text";
        let session = self.session().await?;
        let before: String = session.query_one(LOADED, &[]).await?.get(0);
        session.batch_execute("SELECT pg_reload_conf()").await?;
        let begun = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(1);
        while begun.elapsed() < RELOAD_LIMIT {
            // The postmaster tells its children after it has read the files itself, so a child that has, knows that it has.
            let now: String = session.query_one(LOADED, &[]).await?.get(0);
            if now != before {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Err(LinkError::Reload(RELOAD_LIMIT))
    }

    /// `pg_settings.context` of every setting the running server knows.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn setting_contexts(&self) -> Result<BTreeMap<String, String>, LinkError> {
        let rows = self.session().await?.query("SELECT name, context FROM pg_settings", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
