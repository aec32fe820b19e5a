//! A leader with a large fleet, measured beside its floors: what it accepts, pushes, costs and remembers.
//!
//! ```text
//!   plan ──► run ──► accept scrape start push converge steady storm growth ──► report (medians) ──► targets ──► table
//!                      │                                                         fit: how a cost grows
//!                      ▼
//!                    ground: database, leader, planted computes     herd: ground with simulated agents
//!                    blast: closed load   paced: open load          machine: what the kernel says
//! ```
//!
//! Who calls it: `make bench` through the program `fleet`; `make bench-quick` and a test run everything small. Invariants: every
//! figure stands beside a floor that was taken in the same run on the same disk; a load never sends twice; latency under an
//! open load counts from when a request was due; what must not happen (a lost write) is the worst of all runs, not a median.

mod accept;
mod blast;
mod converge;
mod fit;
mod ground;
mod growth;
mod herd;
mod keys;
mod machine;
mod paced;
mod plan;
mod push;
mod report;
mod scrape;
mod start;
mod steady;
mod storm;
mod table;
mod targets;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

pub use plan::{ALL, Plan, Scenario};
pub use report::{Measured, Report};
pub use table::markdown;

use super::{reason, say};

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A report of each scenario that was measured.
    pub reports: Vec<Report>,
    /// Scenarios that broke off, and why.
    pub broken: Vec<String>,
    /// There is no PostgreSQL; a line has said so.
    pub skipped: bool,
}

/// Runs a plan. A scenario that breaks off leaves its reason; the others are run. `done` gets each report as it is there.
pub async fn run(plan: &Plan, mut done: impl FnMut(&Report)) -> Outcome {
    machine::raise_descriptors();
    pgfleet_clients::install_crypto_provider();
    let mut outcome = Outcome::default();
    for scenario in ALL.into_iter().filter(|one| plan.scenarios.contains(one)) {
        let mut runs = Vec::new();
        for round in 1..=plan.rounds() {
            say(&format!("{}, run {round} of {}", scenario.name(), plan.rounds()));
            match AssertUnwindSafe(Box::pin(measure(scenario, plan))).catch_unwind().await {
                Ok(Some(measured)) => runs.push(measured),
                Ok(None) => return Outcome { skipped: true, ..outcome },
                Err(said) => {
                    outcome.broken.push(format!("{} broke off: {}", scenario.name(), reason(said)));
                    break;
                }
            }
        }
        if runs.len() == plan.rounds() {
            let report = Report::of(scenario.name(), runs);
            let missing = keys::missing(scenario, &report);
            if !missing.is_empty() {
                outcome.broken.push(format!("{} lacks {missing:?}: {report:?}", scenario.name()));
                continue;
            }
            done(&report);
            outcome.reports.push(report);
        }
    }
    outcome
}

/// One run of one scenario.
async fn measure(scenario: Scenario, plan: &Plan) -> Option<Measured> {
    match scenario {
        Scenario::Accept => accept::measure(plan).await,
        Scenario::Scrape => scrape::measure(plan).await,
        Scenario::Start => start::measure(plan).await,
        Scenario::Push => push::measure(plan).await,
        Scenario::Converge => converge::measure(plan).await,
        Scenario::Steady => steady::measure(plan).await,
        Scenario::Storm => storm::measure(plan).await,
        Scenario::Growth => growth::measure(plan).await,
    }
}
