//! The drawing of the agent's rooms in ARCHITECTURE.md, held against the sources.

use std::path::Path;

use pgfleet_layering::{Drawing, arrows, forbidden, undrawn};

/// `app` is the composition root: the one place that knows every room. `metrics` nests the rooms' groups.
const DRAWING: Drawing<'static> = &[
    ("main", &["app", "config"]),
    ("app", &["apply", "config", "http", "ledger", "lifecycle", "metrics", "postgres", "report", "storage"]),
    // The flag for a restart policy is the driver's own type.
    ("config", &["lifecycle"]),
    ("metrics", &["apply", "ledger", "lifecycle", "postgres", "report", "storage"]),
    ("http", &["lifecycle", "postgres", "report"]),
    ("lifecycle", &["apply", "ledger", "postgres", "storage"]),
    ("apply", &["postgres"]),
    ("storage", &["postgres"]),
    ("report", &["lifecycle", "postgres"]),
    ("ledger", &[]),
    ("postgres", &[]),
];

fn src() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn no_arrow_that_is_not_drawn() {
    let found = arrows(&src(), "compute_ctl");
    assert!(!found.is_empty(), "the scan saw nothing");
    assert_eq!(forbidden(&found, DRAWING), Vec::<String>::new());
}

#[test]
fn every_room_is_drawn() {
    assert_eq!(undrawn(&src(), DRAWING), Vec::<String>::new());
}
