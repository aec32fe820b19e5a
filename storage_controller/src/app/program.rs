//! From the command line to the exit code. A build differs from another one by its release alone.

use std::process::ExitCode;
use std::time::Duration;

use pgfleet_persistence::Release;
use pgfleet_runtime::{exit, logging, tls};

use super::{App, AppError};
use crate::config::Args;

/// The whole program, as a build that knows this schema: parse, build, run until told to end.
#[must_use]
pub fn run(release: Release) -> ExitCode {
    let args = match exit::parse_args::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    logging::init("storage_controller", args.log_json);
    tls::install_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::finish("storage_controller", Err(AppError::Runtime(error))),
    };
    let result = runtime.block_on(async {
        let app = App::build(args, release).await?;
        app.run().await
    });
    // A look-up of a name may still block a thread; it must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit::finish("storage_controller", result)
}
