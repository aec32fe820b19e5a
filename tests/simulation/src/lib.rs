//! The simulation: the product's own decisions under seeded schedules of faults, in virtual time.
//!
//! Real are `domain::leadership::{decide, judge, failed_targets}`, `domain::reconcile::{plan, backoff}`,
//! `domain::fence::admit` and `domain::lifecycle::transition`. Around them stands a small world: one database, a few members
//! with clocks that run at 0.5 to 2 times the world's, agents whose ledgers survive them, clients, and links that lose, delay,
//! double and reorder. The simulated room ([`room`], [`lease`], [`work`]) mirrors `storage_controller::leadership`: its lease
//! task, claim with end of sessions and settling, take-over, drain with a grace, release. An [`oracle`] that shares no
//! rule with any of it says what must never be; after the faults end, one leader must lead and every spec be settled within a
//! bounded time. A seed is a schedule: the same seed gives the same steps.
//!
//! ```text
//! Schedule (seed) ─► World: queue of (time, event) ─► room / lease / work / agent / database ─► new events
//!                                                              └──────► oracle: first violation ends the run
//! ```

mod agent;
mod database;
mod dice;
mod fault;
mod fleet;
mod inject;
mod lease;
mod member;
mod net;
mod oracle;
mod room;
mod serve;
mod work;
mod world;

pub mod campaign;

use std::collections::{BTreeMap, BTreeSet};

/// Microseconds: of the world, or of a member's own clock where the name says so.
pub type Us = u64;

/// A rule that is switched off, to show that the simulation would see it missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A write is not checked against the row.
    FenceOff,
    /// A claim does not wait for open fences.
    UniqueOff,
    /// A claim without consent does not look at `renewals`.
    RenewalsOff,
    /// An agent forgets what it promised.
    LedgerOff,
    /// A member that stepped down never claims again.
    RevertOff,
    /// No lease ever runs out.
    LeaseOff,
    /// A leader acts on whatever its proof says.
    GateOff,
    /// A write is acknowledged before its commit.
    EarlyAck,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::FenceOff,
        Self::UniqueOff,
        Self::RenewalsOff,
        Self::LedgerOff,
        Self::RevertOff,
        Self::LeaseOff,
        Self::GateOff,
        Self::EarlyAck,
    ];
}

/// How a schedule is run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A rule that is off.
    pub mutation: Option<Mutation>,
    /// Faults, by their place in the schedule, that are left out.
    pub skip: BTreeSet<usize>,
    /// Keep the last steps as text.
    pub trace: bool,
}

/// What came of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What must never be, if it was.
    pub violation: Option<String>,
    /// Events handled.
    pub steps: u64,
    /// Hash over all of them.
    pub hash: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Faults of the schedule as text, in their order.
    pub schedule: Vec<String>,
    /// Last steps, if asked for.
    pub last_steps: Vec<String>,
    /// From the end of the faults to the state that was left no more, in milliseconds.
    pub converged_ms: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Leaderships that began.
    pub terms: u64,
}

/// Runs the schedule of `seed`.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    world::World::new(seed, options.clone()).run()
}
