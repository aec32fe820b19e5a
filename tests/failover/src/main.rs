//! `failover`: kills the primary of the controllers' database under load and writes what came of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pgfleet_bench::results::{conclude, not_taken};
use pgfleet_failover::patroni::Death;
use pgfleet_failover::report::Report;
use pgfleet_failover::{kills, lossy};

/// Killed primaries of a run that is written down.
const KILLS: usize = 10;

/// Kills the primary of the controllers' database under load: Patroni, etcd, real processes.
///
/// The whole run is written to failover.json and failover.md. A shorter one is only printed.
#[derive(Debug, Parser)]
#[command(name = "failover", version, about, long_about, term_width = 100)]
struct Plan {
    /// Primaries to be killed, in turn frozen, only the server, the whole node.
    #[arg(long, default_value_t = KILLS)]
    kills: usize,
    /// Leave out the run with asynchronous replication, which loses commits on purpose.
    #[arg(long)]
    no_async: bool,
    /// Where the results go.
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match Plan::try_parse() {
        Ok(plan) => plan,
        Err(error) => return not_taken(&error),
    };
    let deaths: Vec<Death> = [Death::Frozen, Death::Server, Death::Node].into_iter().cycle().take(plan.kills).collect();
    let Some(killed) = kills::measure("failover", &deaths).await else { return ExitCode::FAILURE };
    let lossy = if plan.no_async { None } else { lossy::measure("failover-async").await };
    let whole = plan.kills >= KILLS && lossy.is_some();
    let report = Report::here(&killed, lossy);
    conclude("failover", &plan.out, &report, &report.markdown(), &report.broken(&killed), whole)
}
