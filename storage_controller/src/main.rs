//! The program of this build.

use std::process::ExitCode;

use pgfleet_persistence::Release;

/// Each request is a handful of boxed futures of some kilobytes, of which glibc's allocator makes half of the processor time of
/// a spec that is accepted: what is above a kilobyte it searches for and merges with each release.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    storage_controller::app::run(Release::this())
}
