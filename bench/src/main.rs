//! `handover`: measures changes of leader and writes what came of it.

use std::process::ExitCode;

use clap::Parser as _;
use pgfleet_bench::results::{conclude, not_taken};
use pgfleet_bench::{Plan, markdown, run};

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match Plan::try_parse() {
        Ok(plan) => plan.limited(),
        Err(error) => return not_taken(&error),
    };
    let Some(report) = run(&plan).await else { return ExitCode::FAILURE };
    let text = markdown(&report);
    conclude("handover", &plan.out, &report, &text, &report.broken, plan.is_whole())
}
