//! `fleet_sim`: one process that is any number of agents. See `--help`.

use std::process::ExitCode;

use pgfleet_fleet_sim::app::{Args, run};
use pgfleet_runtime::exit::{finish, parse_args};
use pgfleet_runtime::logging;
use pgfleet_runtime::traces::Traces;

#[tokio::main]
async fn main() -> ExitCode {
    let args = match parse_args::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    logging::init("fleet_sim", false, &Traces::off());
    finish("fleet_sim", run(args).await)
}
