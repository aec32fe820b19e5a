//! `fleet`: measures a leader with a large fleet and writes what came of it.

use std::process::ExitCode;

use clap::Parser as _;
use pgfleet_bench::fleet::{Plan, markdown, run};
use pgfleet_bench::results::{conclude, not_taken};

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match Plan::try_parse() {
        Ok(plan) => plan,
        Err(error) => return not_taken(&error),
    };
    let mut all_written = true;
    let outcome = run(&plan, |report| {
        // Written at once: what is measured is not lost if a later scenario breaks off.
        let text = markdown(report, !plan.quick);
        let written = conclude(report.scenario, &plan.out, report, &text, &[], plan.is_whole());
        all_written &= written == ExitCode::SUCCESS;
    })
    .await;
    for broken in &outcome.broken {
        eprintln!("{broken}");
    }
    if all_written && outcome.broken.is_empty() && !outcome.skipped { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
