//! The programs under test, built before they are started: cargo does not rebuild a sibling's binary for a test.
//!
//! Each test process builds them once, all together as `make test` does (fewer packages would resolve to other features
//! and build their dependencies again), in the profile it was built in itself. A build with nothing to do takes a moment,
//! and cargo's own lock keeps two processes apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The packages of the product, each with one program of the same name, the next releases of the controller, and the
/// simulator of agents.
const PACKAGES: [&str; 5] =
    ["storage_controller", "compute_ctl", "pgfleet", "pgfleet-next-release", "pgfleet-fleet-sim"];

/// A controller that knows one migration more than this one. Only tests build it.
pub const NEXT: &str = "storage_controller_next";

/// The release after that one: its migration shuts out whatever is older than [`NEXT`].
pub const AFTER_NEXT: &str = "storage_controller_after_next";

static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();

/// A directory of programs to be tested as they are, a release for example, instead of building them.
const READY_MADE: &str = "PGFLEET_TEST_PROGRAMS";

/// Path of the program of this name, freshly built. Panics with the compiler's words if it does not build.
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os(READY_MADE).filter(|_| name != NEXT && name != AFTER_NEXT) {
        return Path::new(&dir).join(name);
    }
    let path = BUILT.get_or_init(build).get(name).cloned();
    path.unwrap_or_else(|| panic!("cargo named no executable {name}"))
}

fn build() -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--bins", "--message-format=json-render-diagnostics", "--profile", &profile()])
        .args(PACKAGES.iter().flat_map(|name| ["-p", name]))
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cargo cannot be started: {error}"));
    assert!(output.status.success(), "the programs do not build:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect()
}

/// Name and path, if cargo's message is about a program.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str().filter(|_| message["reason"] == "compiler-artifact")?;
    Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(path)))
}

/// A test lies in `<target>/<profile>/deps/`, a program in `<target>/<profile>/`.
fn profile() -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    let mut dirs = exe.ancestors().skip(1).filter_map(Path::file_name).filter_map(|name| name.to_str());
    match dirs.find(|name| *name != "deps") {
        None | Some("debug") => "dev".to_owned(),
        Some(name) => name.to_owned(),
    }
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
