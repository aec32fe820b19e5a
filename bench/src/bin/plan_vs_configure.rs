//! `plan_vs_configure`: compares what /plan says with what /configure does and writes what came of it.

use std::process::ExitCode;

use clap::Parser as _;
use pgfleet_bench::pairs::{Asked, markdown, run};

/// Exit code of a command line that cannot be used.
const USAGE: u8 = 64;

#[tokio::main]
async fn main() -> ExitCode {
    let asked = match Asked::try_parse() {
        Ok(asked) => asked,
        Err(error) => {
            // Where nobody reads there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let Some(results) = run(&asked).await else { return ExitCode::FAILURE };
    let text = markdown(&results);
    println!("{text}");
    let written = serde_json::to_string_pretty(&results).map_err(std::io::Error::from).and_then(|json| {
        std::fs::create_dir_all(&asked.out)?;
        std::fs::write(asked.out.join("plan_vs_configure.json"), json + "\n")?;
        std::fs::write(asked.out.join("plan_vs_configure.md"), text)
    });
    if let Err(error) = written {
        eprintln!("the results cannot be written to {}: {error}", asked.out.display());
        return ExitCode::FAILURE;
    }
    if results.mismatches == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
