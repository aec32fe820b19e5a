//! The program: parse, build, run until told to end.

use std::process::ExitCode;

use pgfleet_runtime::{exit, logging, tls};
use storage_controller::app::{App, AppError};
use storage_controller::config::Args;

fn main() -> ExitCode {
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
        let app = App::build(args).await?;
        app.run().await
    });
    // A migration's thread may still be at a statement; it is fenced and must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    exit::finish("storage_controller", result)
}
