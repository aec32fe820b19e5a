//! Sessions with settings of their own from their first moment.

use std::time::Duration;

use pgfleet_runtime::Kind;
use tokio_postgres::{Client, Config, NoTls};

use super::{LinkError, Postgres};

/// By this name the agent's own sessions are told from others.
pub const APPLICATION_NAME: &str = "compute_ctl";

impl Postgres {
    /// A session of the superuser in a database, with the limits of [`Postgres::connect`] and more settings, like
    /// `-c log_statement=none`. Given when the session starts, they are in force before its first statement, and no
    /// setting of the database or the role overrides them.
    ///
    /// # Errors
    /// PostgreSQL does not take the connection.
    pub async fn connect_with(&self, database: &str, settings: &str) -> Result<Client, LinkError> {
        let options = self.options();
        let limits = "-c statement_timeout=60s -c lock_timeout=10s -c search_path=pg_catalog \
                      -c default_transaction_read_only=off";
        let mut config = Config::new();
        config
            .host_path(&options.socket_dir)
            .port(options.port)
            .user(options.superuser.as_str())
            .dbname(database)
            .application_name(APPLICATION_NAME)
            .connect_timeout(Duration::from_secs(10))
            .options(format!("{limits} {settings}"));
        let (client, connection) =
            config.connect(NoTls).await.map_err(|source| LinkError::Connect { port: options.port, source })?;
        self.tasks.spawn("postgres_connection", Kind::Worker, connection);
        Ok(client)
    }
}
