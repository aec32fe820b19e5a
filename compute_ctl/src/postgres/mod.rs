//! The body: PostgreSQL's programs, its process, its files and connections to it.
//!
//! Called by `lifecycle`, `apply` and `storage`; by others only through [`ReadOnly`] and [`Errands`]. It knows nothing of
//! specs and fences. Invariants: the postmaster that is signalled is one this agent started, or one whose working
//! directory is this data directory; other processes are signalled only where they are its orphans; nothing here deletes
//! data.

mod ask;
mod conf;
mod control;
mod dump;
mod errands;
mod grants;
mod known;
mod link;
mod log;
mod metrics;
mod monitor_link;
mod orphans;
mod pending;
mod pidfile;
mod programs;
mod promote;
mod read_only;
mod run_as;
mod server;
mod session;
mod statements;
mod view;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgfleet_api::spec::Secret;
use pgfleet_runtime::TaskGroup;

pub use ask::AskError;
pub use conf::{CONF_FILE, ConfError, render};
pub use dump::SchemaDump;
pub use errands::Errands;
pub use link::LinkError;
pub use log::LogFollower;
pub use metrics::PostgresMetrics;
pub use pending::chosen_wal_buffers;
pub use programs::{CheckError, Programs, ProgramsError};
pub use promote::PromoteError;
pub use read_only::{InstalledExtension, ReadOnly};
pub use run_as::{RunAs, RunAsError};
pub use server::{Server, ServerError};
pub use session::Session;
pub use view::{Line, Row, View};

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
    /// Role that every new role is made a member of.
    pub privileged_role: String,
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
    slot: session::Slot,
    known: known::Known,
    /// Shown to storage by the server itself.
    storage_token: Arc<Mutex<Option<Secret>>>,
}

impl Postgres {
    /// Connections made later run as tasks of `tasks`.
    #[must_use]
    pub fn new(options: Options, tasks: TaskGroup) -> Self {
        Self {
            options: Arc::new(options),
            tasks,
            metrics: Arc::new(PostgresMetrics::new_zero()),
            session_name: link::OWN_NAME,
            slot: session::Slot::default(),
            known: known::Known::default(),
            storage_token: Arc::default(),
        }
    }

    /// The token that the server gets at its next start, for storage that asks for one.
    pub fn set_storage_token(&self, token: Option<Secret>) {
        *self.storage_token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn storage_token(&self) -> Option<Secret> {
        self.storage_token.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
