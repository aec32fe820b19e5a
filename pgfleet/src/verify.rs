//! `pgfleet verify`: the invariant checker over a recording, or over what a live cluster remembers.
//!
//! It calls `pgfleet-history` to judge and [`live`] to ask a cluster. Invariant: what could not be checked is said.

mod live;

use std::fs::File;
use std::io::{BufReader, stdin};
use std::path::Path;
use std::time::Duration;

use pgfleet_history::{Entry, Options, Outcome, Report, check, read};
use serde::Serialize;

use crate::cli::{Output, VerifyArgs};
use crate::connect::Connection;
use crate::exit::CliError;
use crate::output::{print, print_json};

/// The report, with where it comes from.
#[derive(Debug, Serialize)]
struct Verified {
    /// File or cluster.
    source: String,
    passed: bool,
    /// Facts checked, all invariants together.
    facts: u64,
    /// What could not be learnt from a live cluster, in words.
    missing: Vec<String>,
    #[serde(flatten)]
    report: Report,
}

pub async fn run(args: &VerifyArgs, connection: &Connection, output: Output) -> Result<(), CliError> {
    let verified = match &args.file {
        Some(path) => recording(path, args)?,
        None => {
            let live::Look { entries, missing, source } = live::look(&connection.client()?).await?;
            let report = check(&entries, &Options::live());
            verified(source, missing, report)
        }
    };
    match output {
        Output::Json => print_json(&verified)?,
        Output::Table => print_report(&verified)?,
    }
    verdict(&verified)
}

fn recording(path: &Path, args: &VerifyArgs) -> Result<Verified, CliError> {
    let entries = entries(path)?;
    let kind = if args.expect_faults { Options::chaos() } else { Options::recording() };
    let options = Options { linearizable_within: Duration::from_secs(args.search_limit), ..kind };
    Ok(verified(path.display().to_string(), Vec::new(), check(&entries, &options)))
}

fn entries(path: &Path) -> Result<Vec<Entry>, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", path.display()));
    let entries = if path == Path::new("-") {
        read(stdin().lock())
    } else {
        read(BufReader::new(File::open(path).map_err(|error| usage(&error))?))
    };
    entries.map_err(|error| usage(&error))
}

fn verified(source: String, missing: Vec<String>, report: Report) -> Verified {
    Verified { source, passed: report.passed(), facts: report.facts(), missing, report }
}

fn print_report(verified: &Verified) -> Result<(), CliError> {
    print(&verified.report.to_string())?;
    for missing in &verified.missing {
        print(&format!("could not be checked: {missing}"))?;
    }
    let not_checked = verified.report.named(Outcome::NotChecked);
    if !not_checked.is_empty() {
        print(&format!("not checked, because nothing there bears on it: {}", not_checked.join(", ")))?;
    }
    if verified.passed {
        print(&format!("{}: {} facts checked, nothing is broken", verified.source, verified.facts))?;
    }
    Ok(())
}

fn verdict(verified: &Verified) -> Result<(), CliError> {
    if verified.passed {
        return Ok(());
    }
    let report = &verified.report;
    let mut words = Vec::new();
    for (outcome, word) in [(Outcome::Broken, "broken"), (Outcome::NotDecided, "not decided")] {
        let names = report.named(outcome);
        if !names.is_empty() {
            words.push(format!("{word}: {}", names.join(", ")));
        }
    }
    let (source, found) = (&verified.source, report.violations());
    Err(CliError::Failed(format!("{source}: {found} violations in {} facts; {}", verified.facts, words.join("; "))))
}
