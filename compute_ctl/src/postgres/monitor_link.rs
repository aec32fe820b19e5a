//! The monitor's session: read-only, silent in PostgreSQL's log, and kept for as long as the server runs.

use std::time::Duration;

use pgfleet_runtime::Kind;
use tokio_postgres::{Client, NoTls};

use super::{LinkError, Postgres};

/// What would end it, hold it, log it or make it slow is off, whatever the spec sets for others.
const OPTIONS: &str = "-c default_transaction_read_only=on -c statement_timeout=5s -c lock_timeout=1s \
    -c idle_session_timeout=0 -c search_path=pg_catalog -c jit=off -c max_parallel_workers_per_gather=0 \
    -c log_statement=none -c log_duration=off -c log_min_duration_statement=-1 -c log_min_duration_sample=-1 \
    -c log_transaction_sample_rate=0 -c pg_stat_statements.track=none";

impl Postgres {
    /// A session for the monitor; it ends when the client is dropped.
    ///
    /// # Errors
    /// PostgreSQL does not take the connection.
    pub async fn connect_monitor(&self) -> Result<Client, LinkError> {
        let options = self.options();
        let mut config = self.way_in(&options.database, "compute_ctl:compute_monitor", Duration::from_secs(5));
        config.options(OPTIONS);
        let (client, connection) =
            config.connect(NoTls).await.map_err(|source| LinkError::Connect { port: options.port, source })?;
        self.tasks.spawn("monitor_connection", Kind::Worker, connection);
        Ok(client)
    }
}
