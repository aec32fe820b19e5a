//! The program: parse, build, run until told to end.

use std::process::ExitCode;
use std::time::Duration;

use pgfleet_runtime::traces::Traces;
use pgfleet_runtime::{exit, logging, tls};
use storage_controller::app::{App, AppError};
use storage_controller::config::Args;

/// Name on error lines.
const PROGRAM: &str = "storage_controller";

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
    let result = runtime.block_on(async {
        let app = App::build(args).await?;
        app.run().await
    });
    // The runtime still runs: it carries the last spans.
    traces.close();
    // A migration's thread may still be at a statement; it is fenced and must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit::finish(PROGRAM, result)
}
