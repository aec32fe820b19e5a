//! `pgfleet local`: a whole cluster on this machine: a private PostgreSQL, controllers, agents with their PostgreSQLs.
//!
//! `up` leaves it running, `status` looks at it, `down` ends and removes it, `demo` makes one, shows a rolling restart
//! and a crash on it, and leaves nothing behind. Invariants: only processes that this program started are ended (known
//! by process id and start time), only directories that carry its marker are touched, and authentication is on.

pub mod cluster;
pub mod demo;
pub mod down;
pub mod keys;
pub mod layout;
pub mod postgres;
pub mod process;
pub mod state;
pub mod status;
pub mod up;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Output;
use crate::exit::CliError;

#[derive(Debug, Subcommand)]
pub enum LocalVerb {
    /// Start a cluster and leave it running.
    Up {
        /// How many controllers; one leads, the others wait.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=9))]
        controllers: u32,
        /// How many computes, each an agent with a PostgreSQL of its own.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=50))]
        computes: u32,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        programs: ProgramArgs,
    },
    /// Show what runs.
    Status {
        #[command(flatten)]
        place: Place,
    },
    /// End the cluster and remove what it made: data, keys, logs.
    Down {
        #[command(flatten)]
        place: Place,
    },
    /// Show a rolling restart and a crash under load, and leave nothing running.
    Demo {
        #[command(flatten)]
        programs: ProgramArgs,
    },
}

#[derive(Debug, Args)]
pub struct Place {
    /// Where the cluster lives. Default: /var/tmp/pgfleet-local as root, else ~/.pgfleet/local.
    #[arg(long, value_name = "DIR", env = "PGFLEET_LOCAL_DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// Directory with initdb, postgres and psql. Default: that of postgres on PATH, else Debian's newest.
    #[arg(long, value_name = "DIR", env = "PGFLEET_PG_BIN")]
    pub pg_bin: Option<PathBuf>,
}

pub async fn run(verb: LocalVerb, output: Output) -> Result<(), CliError> {
    match verb {
        LocalVerb::Up { controllers, computes, place, programs } => {
            Box::pin(up::run(controllers, computes, place.dir, programs.pg_bin)).await
        }
        LocalVerb::Status { place } => status::run(place.dir, output).await,
        LocalVerb::Down { place } => down::run(place.dir).await,
        LocalVerb::Demo { programs } => Box::pin(demo::run(programs.pg_bin)).await,
    }
}

/// Returns when the terminal or a supervisor wants an end. From the first call on, the signals do nothing else: what was
/// started is ended in order however often Ctrl-C is pressed.
pub async fn interrupted() -> CliError {
    let listen = |kind| signal(kind).map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")));
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(listen);
    let [mut interrupt, mut terminate, mut hangup] = match signals {
        [Ok(interrupt), Ok(terminate), Ok(hangup)] => [interrupt, terminate, hangup],
        [Err(error), _, _] | [_, Err(error), _] | [_, _, Err(error)] => return error,
    };
    tokio::select! {
        _ = interrupt.recv() => CliError::Failed("interrupted".to_owned()),
        _ = terminate.recv() => CliError::Failed("ended by SIGTERM".to_owned()),
        _ = hangup.recv() => CliError::Failed("the terminal is gone".to_owned()),
    }
}
