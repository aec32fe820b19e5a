//! `pgfleet`, the operator's command line: one file per noun.
//!
//! It talks to any member of a cluster through `pgfleet-clients`; `pgfleet local` runs a whole cluster on this machine.

mod bulk;
mod cli;
mod completions;
mod compute;
mod config;
mod connect;
mod exit;
mod input;
mod journal;
mod leader;
mod local;
mod man;
mod output;
mod plan;
mod rollout;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Noun};
use crate::exit::CliError;

fn main() -> ExitCode {
    pgfleet_clients::install_crypto_provider();
    let cli = match parse() {
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

/// Parses the command line, and notes what of it came from the environment.
fn parse() -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut Cli::command()))?;
    cli.connection.note_sources(&matches);
    Ok(cli)
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { connection, output, noun } = cli;
    match noun {
        Noun::Leader { verb } => Box::pin(leader::run(verb, &connection.client()?, output)).await,
        Noun::Compute { verb } => Box::pin(compute::run(verb, &connection.client()?, output)).await,
        Noun::Plan(args) => Box::pin(plan::run(args, &connection.client()?, output)).await,
        Noun::Rollout { verb } => Box::pin(rollout::run(verb, &connection.client()?, output)).await,
        Noun::Verify(args) => Box::pin(verify::run(&args, &connection, output)).await,
        Noun::Config { verb } => Box::pin(config::run(verb, &connection, output)).await,
        Noun::Completions { shell } => completions::run(shell),
        Noun::Man { command, dir } => man::run(&command, dir.as_deref()),
        Noun::Local { verb } => Box::pin(local::run(verb, output)).await,
    }
}
