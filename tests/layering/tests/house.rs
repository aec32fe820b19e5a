//! Rules about the whole workspace that no lint knows: who may depend on whom, and how long a file may be.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(manifest).join("Cargo.toml")).unwrap();
    let section = text.split("\n[").find(|part| part.starts_with("dependencies]")).unwrap_or_default();
    section.lines().skip(1).filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn crates_depend_only_as_drawn() {
    let drawing: BTreeMap<&str, &[&str]> = [
        ("libs/api", &[][..]),
        ("libs/domain", &["api"]),
        ("libs/persistence", &["domain", "api"]),
        ("libs/clients", &["api", "domain"]),
        ("libs/runtime", &["api"]),
        ("storage_controller", &["persistence", "domain", "clients", "runtime", "api"]),
        ("compute_ctl", &["domain", "clients", "runtime", "api"]),
        ("libs/history", &["api", "domain"]),
        ("pgfleet", &["clients", "api", "domain", "history"]),
        ("bench", &["clients", "api", "domain", "harness", "fleet-sim"]),
        ("bench/fleet_sim", &["api", "domain", "harness", "runtime"]),
        ("tests/next_release", &["persistence"]),
        ("tests/failover", &["clients", "api", "domain", "harness", "bench"]),
    ]
    .into();
    for (manifest, allowed) in drawing {
        let found = dependencies(manifest);
        assert!(!found.is_empty(), "{manifest}: its dependencies were not read");
        for ours in found.iter().filter_map(|name| name.strip_prefix("pgfleet-")) {
            assert!(allowed.contains(&ours), "{manifest} -> {ours} is not drawn");
        }
    }
}

#[test]
fn the_pure_crates_stay_pure() {
    for manifest in ["libs/api", "libs/domain", "libs/history"] {
        for banned in ["tokio", "axum", "diesel", "diesel-async", "reqwest", "tokio-postgres", "hyper"] {
            assert!(!dependencies(manifest).contains(&banned.to_owned()), "{manifest} -> {banned}");
        }
    }
    for manifest in ["libs/runtime", "libs/clients", "compute_ctl", "pgfleet"] {
        assert!(!dependencies(manifest).iter().any(|name| name.starts_with("diesel")), "{manifest} -> diesel");
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.') || name == "target");
        if path.is_dir() && !hidden {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_file_is_over_800_lines_and_long_ones_say_why() {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    assert!(files.len() > 50, "the walk saw {} files", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= 800, "{} has {lines} lines", file.display());
        if lines > 100 {
            assert!(text.starts_with("//!"), "{} has {lines} lines and no header", file.display());
        }
    }
}
