//! The promises, one file each. `check` runs them all and counts the figures.
//!
//! Every invariant has the same shape: `pub(super) fn check(&Facts, &Options) -> Finding`. It counts the facts it looks at,
//! so that a check that saw nothing is told apart from one that passed.

mod acknowledged;
mod applied;
mod content;
mod ended;
mod faults;
mod figures;
mod journal;
mod ledger;
mod leftovers;
mod linearizable;
mod load;
mod one_leader;
mod provenance;
mod recording;
mod sightings;
mod terms;
mod writers;

use std::time::Duration;

use crate::calls::{self, Op};
use crate::event::Entry;
use crate::losses::Losses;
use crate::report::Report;

/// What a history must have, beside keeping the promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// It must have acknowledged writes and answered reads.
    pub expect_load: bool,
    /// It must have faults, acknowledged writes after the last of them, and a look at what was left behind.
    pub expect_faults: bool,
    /// It must end in order, with a look at what the database has in the end.
    pub expect_end: bool,
    /// It ends after everything was healed, so everything that was asked for must be in effect.
    pub settled: bool,
    /// How long the search for a linearization may take, for all computes together.
    pub linearizable_within: Duration,
}

impl Options {
    /// For the recording of a run under load.
    #[must_use]
    pub const fn recording() -> Self {
        Self {
            expect_load: true,
            expect_faults: false,
            expect_end: true,
            settled: true,
            linearizable_within: Duration::from_secs(60),
        }
    }

    /// For the recording of a chaos run, which is worth nothing without a fault.
    #[must_use]
    pub const fn chaos() -> Self {
        Self { expect_faults: true, ..Self::recording() }
    }

    /// For one look at a cluster that lives: no calls, no end, and what was asked may be under way.
    #[must_use]
    pub const fn live() -> Self {
        Self { expect_load: false, expect_end: false, settled: false, ..Self::recording() }
    }
}

/// A history, and what more than one invariant makes of it.
struct Facts<'a> {
    entries: &'a [Entry],
    ops: Vec<Op<'a>>,
    losses: Losses,
}

/// Looks at a history through every invariant. Lines in the report count from 1: `entries[0]` is line 1.
#[must_use]
pub fn check(entries: &[Entry], options: &Options) -> Report {
    let facts = Facts { entries, ops: calls::pair(entries), losses: Losses::of(entries) };
    let all = [
        recording::check,
        terms::check,
        one_leader::check,
        writers::check,
        acknowledged::check,
        applied::check,
        content::check,
        provenance::check,
        ledger::check,
        linearizable::check,
        journal::check,
        load::check,
        faults::check,
        leftovers::check,
        ended::check,
    ];
    Report {
        invariants: all.into_iter().map(|invariant| invariant(&facts, options)).collect(),
        figures: figures::count(&facts),
    }
}
