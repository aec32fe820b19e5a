//! Measured changes of leader: what a client feels of a hand-over, a crash, a frozen leader and a rolling restart.
//!
//! ```text
//!   plan ──► run ──► scenarios/{planned,sigkill,sigstop,steady,restarts} ──► report ──► table
//!                        │          │                                 floors ──┘
//!                        ▼          ▼
//!                       bed        load ──► wire            bed: database (seed), members, agents
//!                  (processes)   (clients)                  gap, stats, journal, metrics: what comes of it
//! ```
//!
//! What an agent costs is measured by [`compute`], and what a large fleet costs by [`fleet`], each with a program and results
//! of its own.
//!
//! Who calls it: `make bench-handover` through the program `handover`, and one bounded run in the tests. What it calls: the
//! programs as processes, through the tests' harness. What cannot be set up ends its scenario with one line that says
//! why: a measurement that goes on is worth nothing. No figure is bent: clients never retry, latency counts from when a request was
//! due, percentiles are exact.

mod agent;
mod bed;
pub mod compute;
pub mod fleet;
mod floors;
mod gap;
mod journal;
mod load;
mod metrics;
pub mod pairs;
mod plan;
mod report;
pub mod results;
mod scenarios;
mod seed;
mod stats;
mod table;
mod wire;

pub use floors::Floors;
pub use plan::{ALL, Plan, Scenario};
pub use report::{Figures, Report, commit, machine, today};
pub use scenarios::planned::Planned;
pub use scenarios::restarts::Restarts;
pub use scenarios::sigkill::Sigkill;
pub use scenarios::sigstop::{Longest, Sigstop};
pub use scenarios::steady::{Rates, Steady};
pub use stats::{Spread, ms, rounded};
pub use table::markdown;

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use scenarios::{Measured, planned, restarts, sigkill, sigstop, steady};

/// Runs a plan. None, with a line that says so, where there is no PostgreSQL. A scenario that breaks off leaves its figures
/// empty and its reason in [`Report::broken`]; the others are run.
pub async fn run(plan: &Plan) -> Option<Report> {
    say("floors");
    let mut report = Report::here(plan.planned, Floors::take().await?);
    for scenario in ALL.into_iter().filter(|one| plan.scenarios.contains(one)) {
        match scenario {
            Scenario::Planned => {
                for computes in plan.sizes.iter().copied() {
                    let what = format!("{} planned hand-overs at {computes} computes", plan.planned);
                    let figures = alone(&mut report, &what, planned::measure(computes, plan.planned)).await;
                    report.figures.planned.extend(figures);
                }
            }
            Scenario::Sigkill => {
                let what = format!("SIGKILL, {} times", plan.kills);
                report.figures.sigkill = alone(&mut report, &what, sigkill::measure(plan.computes, plan.kills)).await;
            }
            Scenario::Sigstop => {
                let what = format!("SIGSTOP, {} times", plan.stops);
                report.figures.sigstop = alone(&mut report, &what, sigstop::measure(plan.computes, plan.stops)).await;
            }
            Scenario::Load => {
                let what = format!("{} hand-overs under load", plan.under_load);
                let asked = steady::Asked { writes: plan.writes_per_s, reads: plan.reads_per_s };
                let measured = steady::measure(plan.computes, plan.under_load, asked);
                report.figures.load = alone(&mut report, &what, measured).await;
            }
            Scenario::Restarts => {
                let what = format!("{} rolling restarts", plan.restarts);
                let measured = restarts::measure(plan.computes, plan.restarts);
                report.figures.restarts = alone(&mut report, &what, measured).await;
            }
        }
    }
    Some(report)
}

/// Runs one scenario, so that one that breaks off does not take the others' figures with it: what it stood on goes with it.
async fn alone<T>(report: &mut Report, what: &str, scenario: impl Future<Output = Option<Measured<T>>>) -> Option<T> {
    say(what);
    match AssertUnwindSafe(scenario).catch_unwind().await {
        Ok(measured) => {
            let Measured { figures, notes } = measured?;
            report.notes.extend(notes);
            Some(figures)
        }
        Err(said) => {
            report.broken.push(format!("{what} broke off: {}", reason(said)));
            None
        }
    }
}

/// What a scenario panicked with.
fn reason(said: Box<dyn Any + Send>) -> String {
    match said.downcast::<String>() {
        Ok(text) => *text,
        Err(said) => said.downcast_ref::<&str>().map_or_else(|| "a panic".to_owned(), |text| (*text).to_owned()),
    }
}

fn say(what: &str) {
    eprintln!("{} {what}", chrono::Utc::now().format("%T"));
}
