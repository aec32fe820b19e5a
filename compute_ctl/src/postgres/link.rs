//! Connections to the server, over its unix socket, as the superuser.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_runtime::Kind;
use tokio_postgres::{Client, Config, NoTls};

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
    /// The reload was not seen in time.
    #[error("PostgreSQL did not reload its configuration within {} s", .0.as_secs())]
    Reload(Duration),
}

/// A reload is a signal; this is how long its effect may take.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

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
        let options = self.options();
        let mut config = Config::new();
        config
            .host_path(&options.socket_dir)
            .port(options.port)
            .user(options.superuser.as_str())
            .dbname(database)
            .application_name(self.session_name)
            .connect_timeout(Duration::from_secs(10))
            .options("-c statement_timeout=60s -c lock_timeout=10s -c search_path=pg_catalog -c default_transaction_read_only=off");
        let (client, connection) =
            config.connect(NoTls).await.map_err(|source| LinkError::Connect { port: options.port, source })?;
        self.tasks.spawn("postgres_connection", Kind::Worker, connection);
        Ok(client)
    }

    /// Makes the server read its configuration and waits until it has.
    ///
    /// # Errors
    /// It cannot be asked, or does not do it in time.
    pub async fn reload(&self) -> Result<(), LinkError> {
        const LOADED: &str = "SELECT pg_conf_load_time()::text";
        let client = self.connect().await?;
        let before: String = client.query_one(LOADED, &[]).await?.get(0);
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < RELOAD_LIMIT {
            // A new session is a child of the postmaster and so knows what the postmaster knows.
            let now: String = self.connect().await?.query_one(LOADED, &[]).await?.get(0);
            if now != before {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(LinkError::Reload(RELOAD_LIMIT))
    }

    /// `pg_settings.context` of every setting the running server knows.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn setting_contexts(&self) -> Result<BTreeMap<String, String>, LinkError> {
        let rows = self.connect().await?.query("SELECT name, context FROM pg_settings", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
