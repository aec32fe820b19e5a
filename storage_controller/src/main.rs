//! The program of this build.

use std::process::ExitCode;

use pgfleet_persistence::Release;

fn main() -> ExitCode {
    storage_controller::app::run(Release::this())
}
