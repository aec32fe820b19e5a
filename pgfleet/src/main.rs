//! `pgfleet`, the operator's command line: one file per noun.
//!
//! It talks to any member of a cluster through `pgfleet-clients`; `pgfleet local` runs a whole cluster on this machine.

mod bulk;
mod cli;
mod compute;
mod connect;
mod exit;
mod journal;
mod leader;
mod local;
mod output;
mod plan;
mod rollout;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Noun};
use crate::exit::CliError;

fn main() -> ExitCode {
    pgfleet_clients::install_crypto_provider();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&CliError::Failed(format!("cannot start the runtime: {error}"))),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { connection, output, noun } = cli;
    match noun {
        Noun::Leader { verb } => Box::pin(leader::run(verb, &connection.client()?, output)).await,
        Noun::Compute { verb } => Box::pin(compute::run(verb, &connection.client()?, output)).await,
        Noun::Plan(args) => Box::pin(plan::run(args, &connection.client()?, output)).await,
        Noun::Rollout { verb } => Box::pin(rollout::run(verb, &connection.client()?, output)).await,
        Noun::Verify(args) => Box::pin(verify::run(&args, &connection, output)).await,
        Noun::Local { verb } => Box::pin(local::run(verb, output)).await,
    }
}
