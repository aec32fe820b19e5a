//! From the command line to the exit code. A build differs from another one by its release alone.

use std::process::ExitCode;
use std::time::Duration;

use pgfleet_persistence::Release;
use pgfleet_runtime::traces::Traces;
use pgfleet_runtime::{exit, logging, tls};

use super::{App, AppError};
use crate::config::Args;

/// Name on error lines.
const PROGRAM: &str = "storage_controller";

/// The whole program, as a build that knows this schema: parse, build, run until told to end.
#[must_use]
pub fn run(release: Release) -> ExitCode {
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
        let app = App::build(args, release).await?;
        app.run().await
    });
    // The runtime still runs: it carries the last spans.
    traces.close();
    // A look-up of a name may still block a thread; it must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit::finish(PROGRAM, result)
}
