//! What many runs came to: a line for each, figures for all.
//!
//! Who calls it: the program `chaos`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::run::Outcome;

/// Runs from which on the results are worth a file.
pub const WHOLE: u64 = 200;

/// The figures.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// Runs done.
    pub runs: u64,
    /// Runs that failed.
    pub failed_runs: u64,
    /// Everything that was wrong in any of them.
    pub violations: u64,
    /// HTTP requests of the load.
    pub requests: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Leaderships.
    pub terms: u64,
    /// Facts that the checker looked at.
    pub facts: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Pause points that were hit, by name.
    pub pause_points: BTreeMap<String, u64>,
    /// Runs by what they were about.
    pub scenarios: BTreeMap<String, u64>,
    /// Members that ended by themselves and were started again, by how they ended.
    pub restarts: BTreeMap<String, u64>,
    /// Longest time without an acknowledged write, in milliseconds, under faults of any kind.
    pub longest_gap_ms: u64,
}

/// The results for machines.
#[derive(Debug, Serialize)]
pub struct Results {
    /// `chaos`.
    pub scenario: &'static str,
    /// The commit that ran.
    pub commit: String,
    /// The day.
    pub date: String,
    /// Where.
    pub machine: String,
    /// Runs.
    pub n: u64,
    /// The first seed; the others follow it.
    pub seed: u64,
    /// What came of them.
    pub figures: Figures,
    /// Nothing that this machine could do better without the programs.
    pub floors: BTreeMap<String, u64>,
}

impl Figures {
    /// Adds one run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.failed_runs += u64::from(!outcome.passed());
        self.violations += outcome.violations().len() as u64;
        add(&mut self.faults, outcome.done.faults.iter().map(|(kind, count)| ((*kind).to_owned(), *count)));
        add(&mut self.pause_points, outcome.done.pauses.iter().map(|(name, count)| ((*name).to_owned(), *count)));
        add(&mut self.restarts, outcome.done.fallen.iter().map(|(how, count)| (how.clone(), *count)));
        let scenario = outcome.scenario.to_string();
        add(&mut self.scenarios, [(scenario.split(':').next().unwrap_or_default().to_owned(), 1)]);
        if let Some(report) = &outcome.report {
            self.requests += report.figures.calls;
            self.writes += report.figures.writes;
            self.terms += report.figures.terms;
            self.facts += report.facts();
            self.longest_gap_ms = self.longest_gap_ms.max(report.figures.longest_gap_ms.unwrap_or_default());
        }
    }
}

fn add(counts: &mut BTreeMap<String, u64>, more: impl IntoIterator<Item = (String, u64)>) {
    for (name, count) in more {
        *counts.entry(name).or_default() += count;
    }
}

/// One line about a run.
#[must_use]
pub fn line(outcome: &Outcome) -> String {
    let faults: Vec<String> = outcome.done.faults.iter().map(|(kind, count)| times(kind, *count)).collect();
    let pauses: Vec<String> = outcome.done.pauses.keys().map(|point| format!("@{point}")).collect();
    let figures = outcome.report.as_ref().map(|report| report.figures.clone()).unwrap_or_default();
    let verdict = if outcome.passed() { "ok" } else { "FAILED" };
    format!(
        "seed {:>5}  {verdict:<6}  {:<24}  {:>4} requests  {:>3} writes  {:>2} terms  gap {:>5} ms  {:>4.1} s  {} {}",
        outcome.seed,
        outcome.scenario.to_string(),
        figures.calls,
        figures.writes,
        figures.terms,
        figures.longest_gap_ms.unwrap_or_default(),
        outcome.took.as_secs_f64(),
        faults.join(","),
        pauses.join(","),
    )
}

fn times(kind: &str, count: u64) -> String {
    if count == 1 { kind.to_owned() } else { format!("{kind}*{count}") }
}

/// The results for people.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let figures = &results.figures;
    let mut text = format!(
        "# Chaos at {}, {}\n\n{}. {} runs from seed {}: {} failed, {} violations.\n\n",
        results.commit,
        results.date,
        results.machine,
        figures.runs,
        results.seed,
        figures.failed_runs,
        figures.violations
    );
    let rows = [
        ("requests", figures.requests),
        ("acknowledged writes", figures.writes),
        ("leaderships", figures.terms),
        ("facts checked", figures.facts),
        ("longest time without an acknowledged write (ms)", figures.longest_gap_ms),
    ];
    table(&mut text, "figure", rows.map(|(name, count)| (name.to_owned(), count)));
    table(&mut text, "fault", figures.faults.clone());
    table(&mut text, "pause point", figures.pause_points.clone());
    table(&mut text, "scenario", figures.scenarios.clone());
    table(&mut text, "members that ended by themselves", figures.restarts.clone());
    text
}

fn table(text: &mut String, name: &str, rows: impl IntoIterator<Item = (String, u64)>) {
    // Writing into a String does not fail.
    let _ = write!(text, "| {name} | |\n|---|---:|\n");
    for (name, count) in rows {
        let _ = writeln!(text, "| {name} | {count} |");
    }
    text.push('\n');
}
