//! `plan_vs_configure`: compares what /plan says with what /configure does and writes what came of it.

use std::process::ExitCode;

use clap::Parser as _;
use pgfleet_bench::pairs::{Asked, markdown, run};
use pgfleet_bench::results::{conclude, not_taken};

#[tokio::main]
async fn main() -> ExitCode {
    let asked = match Asked::try_parse() {
        Ok(asked) => asked,
        Err(error) => return not_taken(&error),
    };
    let Some(results) = run(&asked).await else { return ExitCode::FAILURE };
    let written = conclude("plan_vs_configure", &asked.out, &results, &markdown(&results), &[], true);
    if results.mismatches == 0 { written } else { ExitCode::FAILURE }
}
