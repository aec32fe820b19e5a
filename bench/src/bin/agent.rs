//! `agent`: measures what an agent costs and writes what came of it.

use std::process::ExitCode;

use clap::Parser as _;
use pgfleet_bench::compute::{Plan, markdown, run};
use pgfleet_bench::results::{conclude, not_taken};

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match Plan::try_parse() {
        Ok(plan) => plan.limited(),
        Err(error) => return not_taken(&error),
    };
    let Some(report) = run(&plan).await else { return ExitCode::FAILURE };
    let text = markdown(&report);
    conclude("agent", &plan.out, &report, &text, &report.broken, plan.is_whole())
}
