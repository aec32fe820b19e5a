//! The controller two releases after this one, for tests: its last migration is a contract step, which lets the release
//! before it lead on and shuts this one out.

use std::process::ExitCode;

use pgfleet_persistence::{Migration, Release};

const ADD_NOTE: Migration = Migration::embedded(
    "20990201000000_add_compute_note",
    include_str!("../migrations/20990201000000_add_compute_note/up.sql"),
);

const REQUIRE_NOTE: Migration = Migration::embedded(
    "20990301000000_require_compute_note",
    include_str!("../migrations/20990301000000_require_compute_note/up.sql"),
);

fn main() -> ExitCode {
    storage_controller::app::run(Release::later(4, &[ADD_NOTE, REQUIRE_NOTE]))
}
