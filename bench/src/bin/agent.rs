//! `agent`: measures what an agent costs and writes what came of it.

use std::process::ExitCode;

use clap::Parser as _;
use pgfleet_bench::compute::{Plan, markdown, run};

/// Exit code of a command line that cannot be used.
const USAGE: u8 = 64;

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match Plan::try_parse() {
        Ok(plan) => plan.limited(),
        Err(error) => {
            // Where nobody reads there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let Some(report) = run(&plan).await else { return ExitCode::FAILURE };
    let text = markdown(&report);
    println!("{text}");
    for broken in &report.broken {
        eprintln!("{broken}");
    }
    if !report.broken.is_empty() {
        return ExitCode::FAILURE;
    }
    if !plan.is_whole() {
        return ExitCode::SUCCESS;
    }
    let written = serde_json::to_string_pretty(&report).map_err(std::io::Error::from).and_then(|json| {
        std::fs::create_dir_all(&plan.out)?;
        std::fs::write(plan.out.join("agent.json"), json + "\n")?;
        std::fs::write(plan.out.join("agent.md"), text)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the results cannot be written to {}: {error}", plan.out.display());
            ExitCode::FAILURE
        }
    }
}
