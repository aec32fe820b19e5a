//! The programs under test, built before they are started: cargo does not rebuild a sibling's binary for a test.
//!
//! Each test process builds a program once, in the profile it was built in itself; a build with nothing to do takes a
//! moment, and cargo's own lock keeps two processes apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// A directory of programs to be tested as they are, a release for example, instead of building them.
const READY_MADE: &str = "PGFLEET_TEST_PROGRAMS";

/// Path of the program of this name, freshly built. Panics with the compiler's words if it does not build.
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os(READY_MADE) {
        return Path::new(&dir).join(name);
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let path = build(name);
    built.insert(name.to_owned(), path.clone());
    path
}

fn build(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--bins", "--message-format=json-render-diagnostics", "-p", name, "--profile", &profile()])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cargo cannot be started: {error}"));
    assert!(output.status.success(), "{name} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let path = messages.lines().filter_map(|line| executable_of(line, name)).next_back();
    path.unwrap_or_else(|| panic!("cargo built {name} and named no executable"))
}

fn executable_of(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let meant = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
    meant.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

/// A test lies in `<target>/<profile>/deps/`.
fn profile() -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.ancestors().nth(2).and_then(Path::file_name).and_then(|name| name.to_str());
    match dir {
        None | Some("debug") => "dev".to_owned(),
        Some(name) => name.to_owned(),
    }
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
