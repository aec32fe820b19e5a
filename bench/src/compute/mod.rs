//! What an agent costs: its start, a large spec, a spec that changes nothing, a changed setting, its memory and its idleness.
//!
//! ```text
//!   plan ──► run ──► start · apply (+ idle) · noop · change · small ──► report ──► table
//!                       │       │
//!                      home   script          home: an agent, or a bare server like the one it makes; script: its work in psql
//! ```
//!
//! Who calls it: `make bench-agent` through the program `agent`, and one small run in the tests. What is compared is run by
//! turns in the same run, agent first, and the median of the pairs' ratios counts. Nobody else uses the servers.

mod apply;
mod change;
mod home;
mod noop;
mod plan;
mod report;
mod script;
mod small;
mod start;
mod table;

pub use apply::Applied;
pub use change::Changed;
pub use noop::Noop;
pub use plan::{ALL, Plan, Scenario};
pub use report::{Figures, Floors, Report};
pub use start::Started;
pub use table::markdown;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::Options;

use crate::{bed, floors, reason, say};

/// Runs a plan. None, with a line that says so, where there is no PostgreSQL. A scenario that breaks off leaves its figures
/// empty and its reason in [`Report::broken`]; the others are run.
pub async fn run(plan: &Plan) -> Option<Report> {
    let fleet = Fleet::with_server("agent", Options::durable()).await?;
    bed::on_a_disk(&fleet);
    let mut report = Report::here(plan.changes);
    report.floors.fdatasync_ms = floors::fdatasync(fleet.dir());
    for scenario in ALL.into_iter().filter(|one| plan.scenarios.contains(one)) {
        let what = plan.words(scenario);
        say(&what);
        let measured = AssertUnwindSafe(measure(&fleet, plan, scenario, &mut report)).catch_unwind().await;
        if let Err(said) = measured {
            report.broken.push(format!("{what} broke off: {}", reason(said)));
        }
    }
    Some(report)
}

async fn measure(fleet: &Fleet, plan: &Plan, scenario: Scenario, report: &mut Report) {
    let Report { figures, floors, notes, .. } = report;
    match scenario {
        Scenario::Start => {
            let started = start::measure(fleet, plan.starts).await;
            floors.initdb_pg_ctl_ms = started.bare_ms;
            figures.start_ratio = started.ratio;
            figures.start = Some(started);
        }
        Scenario::Small => {
            (figures.small_spec_sql_ms, floors.small_script_ms) = small::measure(fleet, plan.smalls).await;
        }
        Scenario::Noop => {
            let noop = noop::measure(fleet, plan.noops).await;
            figures.noop_ms = noop.ms;
            figures.noop_sql_writes = Some(noop.sql_writes);
            figures.rss_small_mb = noop.rss_mb;
            floors.http_ms = noop.http_ms;
        }
        Scenario::Apply => {
            let applied = apply::measure(fleet, plan, notes).await;
            floors.psql_script_ms = applied.script_ms;
            figures.apply_1000r_500d_ratio = applied.ratio;
            figures.rss_mb = applied.rss_mb;
            figures.idle_cpu_percent = applied.idle_cpu_percent;
            figures.apply = Some(applied);
        }
        Scenario::Change => figures.settings_change_ms = change::measure(fleet, plan.changes).await,
    }
}
