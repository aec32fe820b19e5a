//! `compute_ctl`: parse, build, run.

use std::process::ExitCode;

use compute_ctl::app::App;
use compute_ctl::config::{Args, Config};

/// Name on error lines.
const PROGRAM: &str = "compute_ctl";

#[tokio::main]
async fn main() -> ExitCode {
    pgfleet_runtime::tls::install_provider();
    let args = match pgfleet_runtime::exit::parse_args::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    pgfleet_runtime::logging::init(PROGRAM, args.log_json);
    let result = match Config::from_args(args) {
        Ok(config) => run(config).await,
        Err(error) => Err(error.into()),
    };
    pgfleet_runtime::exit::finish(PROGRAM, result)
}

async fn run(config: Config) -> Result<(), compute_ctl::app::AppError> {
    App::build(config).await?.run().await
}
