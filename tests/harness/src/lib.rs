//! What tests stand on: real PostgreSQL servers and real processes, that leave nothing behind.
//!
//! Who calls it: the room tests of crates that need a database ([`postgres`]), and the system tests ([`fleet`] and what
//! belongs to it). What it calls: the PostgreSQL programs of this machine, cargo, the binaries under test. Nothing in here
//! is part of a product. What cannot be set up panics with one line that says why: the caller is a test.

pub mod agent;
pub mod controller;
pub mod fleet;
pub mod http;
pub mod keys;
pub mod load;
pub mod memory;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod specs;
pub mod wait;

/// Says that a test proves nothing on this machine. Written past the test runner's capture, which would swallow the line
/// of a test that passes; CI fails on it.
pub fn skip(test: &str, why: &str) {
    use std::io::Write as _;
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIP: {test}: {why}");
}
