//! The body: PostgreSQL's programs, its process, its files and connections to it.
//!
//! Called by `lifecycle`, `apply` and `storage`. It knows nothing of specs and fences. Invariants: the postmaster that is
//! signalled is one this agent started, or one whose working directory is this data directory; other processes are
//! signalled only where they are its orphans; nothing here deletes data.

mod conf;
mod control;
mod link;
mod log;
mod metrics;
mod orphans;
mod pending;
mod pidfile;
mod programs;
mod promote;
mod run_as;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_runtime::TaskGroup;

pub use conf::{CONF_FILE, ConfError, render};
pub use link::LinkError;
pub use log::LogFollower;
pub use metrics::PostgresMetrics;
pub use programs::{CheckError, Programs, ProgramsError};
pub use promote::PromoteError;
pub use run_as::{RunAs, RunAsError};
pub use server::{Server, ServerError};

/// Which PostgreSQL, where, and for whom.
#[derive(Debug)]
pub struct Options {
    /// The programs of one installation.
    pub programs: Programs,
    /// Absolute path of the data directory.
    pub data_dir: PathBuf,
    /// Absolute path of the agent's own directory.
    pub state_dir: PathBuf,
    /// Directory of the unix socket, short enough for one.
    pub socket_dir: PathBuf,
    /// The user that PostgreSQL runs as, where the agent is root.
    pub run_as: Option<RunAs>,
    /// Name of the superuser.
    pub superuser: String,
    /// Database the agent connects to.
    pub database: String,
    /// Port PostgreSQL listens on.
    pub port: u16,
    /// How long a fast stop may take before an immediate one.
    pub stop_limit: Duration,
    /// Length at which PostgreSQL's log is cut.
    pub log_limit_bytes: u64,
}

/// One PostgreSQL installation and data directory. Clones share it.
#[derive(Debug, Clone)]
pub struct Postgres {
    options: Arc<Options>,
    tasks: TaskGroup,
    metrics: Arc<PostgresMetrics>,
    /// What its sessions are called in `pg_stat_activity`.
    session_name: &'static str,
}

impl Postgres {
    /// Connections made later run as tasks of `tasks`.
    #[must_use]
    pub fn new(options: Options, tasks: TaskGroup) -> Self {
        let metrics = Arc::new(PostgresMetrics::new_zero());
        Self { options: Arc::new(options), tasks, metrics, session_name: "compute_ctl" }
    }

    /// Which PostgreSQL, where, and for whom.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// This room's metrics.
    #[must_use]
    pub fn metrics(&self) -> Arc<PostgresMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Where PostgreSQL's own messages go.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.options.state_dir.join("postgres.log")
    }
}
