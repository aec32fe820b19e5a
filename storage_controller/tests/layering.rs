//! The drawing of the controller's rooms in ARCHITECTURE.md, held against the sources.

use std::path::Path;

use pgfleet_layering::{Drawing, arrows, forbidden, undrawn};

/// `app` is the composition root: the one place that knows every room. `metrics` nests the rooms' groups.
const DRAWING: Drawing<'static> = &[
    ("main", &["app"]),
    ("app", &["agents", "config", "http", "leadership", "metrics", "observe", "reconcile", "rollout", "service"]),
    ("config", &[]),
    ("metrics", &["agents", "http", "leadership", "observe", "reconcile", "rollout", "service"]),
    ("http", &["service"]),
    ("service", &["leadership", "observe", "reconcile", "rollout"]),
    ("leadership", &[]),
    ("reconcile", &["agents", "observe"]),
    ("rollout", &["observe", "reconcile"]),
    ("observe", &["agents", "reconcile"]),
    ("agents", &[]),
];

fn src() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn no_arrow_that_is_not_drawn() {
    let found = arrows(&src(), "storage_controller");
    assert!(!found.is_empty(), "the scan saw nothing");
    assert_eq!(forbidden(&found, DRAWING), Vec::<String>::new());
}

#[test]
fn every_room_is_drawn() {
    assert_eq!(undrawn(&src(), DRAWING), Vec::<String>::new());
}
