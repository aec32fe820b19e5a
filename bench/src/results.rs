//! How the programs of this crate end: with results on disk, or with a line that says why there are none.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

/// Exit code of a command line that cannot be used.
const USAGE: u8 = 64;

/// Ends a program whose command line was not taken, or asked for help.
#[must_use]
pub fn not_taken(error: &clap::Error) -> ExitCode {
    // Where nobody reads there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Shows the text, and writes it and the results to `out` under `name`, where they are whole. What is broken is said, and
/// then nothing is written.
#[must_use]
pub fn conclude(
    name: &str,
    out: &Path,
    results: &impl Serialize,
    text: &str,
    broken: &[String],
    whole: bool,
) -> ExitCode {
    println!("{text}");
    for broken in broken {
        eprintln!("{broken}");
    }
    if !broken.is_empty() {
        return ExitCode::FAILURE;
    }
    if !whole {
        return ExitCode::SUCCESS;
    }
    let written = serde_json::to_string_pretty(results).map_err(std::io::Error::from).and_then(|json| {
        std::fs::create_dir_all(out)?;
        std::fs::write(out.join(format!("{name}.json")), json + "\n")?;
        std::fs::write(out.join(format!("{name}.md")), text)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the results cannot be written to {}: {error}", out.display());
            ExitCode::FAILURE
        }
    }
}
