//! `compute_ctl`: parse, build, run.

use std::process::ExitCode;

use compute_ctl::app::{App, AppError};
use compute_ctl::config::{Args, Config};
use pgfleet_runtime::traces::Traces;
use pgfleet_runtime::{exit, logging, tls};

/// Name on error lines.
const PROGRAM: &str = "compute_ctl";

fn main() -> ExitCode {
    tls::install_provider();
    let args = match exit::parse_args::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::finish(PROGRAM, Err(AppError::Runtime(error))),
    };
    let traces = match Traces::open(PROGRAM, &args.traces, runtime.handle().clone()) {
        Ok(traces) => traces,
        Err(error) => return exit::finish(PROGRAM, Err(error)),
    };
    logging::init(PROGRAM, args.log_json, &traces);
    let result = runtime.block_on(async { run(Config::from_args(args)?).await });
    // The runtime still runs: it carries the last spans.
    traces.close();
    drop(runtime);
    exit::finish(PROGRAM, result)
}

async fn run(config: Config) -> Result<(), AppError> {
    App::build(config).await?.run().await
}
