//! The controller of the release after this one, for tests: the same program that knows one migration more, an expand step.

use std::process::ExitCode;

use pgfleet_persistence::{Migration, Release};

const ADD_NOTE: Migration = Migration::embedded(
    "20990201000000_add_compute_note",
    include_str!("../migrations/20990201000000_add_compute_note/up.sql"),
);

fn main() -> ExitCode {
    storage_controller::app::run(Release::later(3, &[ADD_NOTE]))
}
