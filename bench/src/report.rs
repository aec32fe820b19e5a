//! The results for machines: figures, where they were taken and when.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::floors::Floors;
use crate::scenarios::planned::Planned;
use crate::scenarios::restarts::Restarts;
use crate::scenarios::sigkill::Sigkill;
use crate::scenarios::sigstop::Sigstop;
use crate::scenarios::steady::Steady;

/// What is written to `handover.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Always `handover`.
    pub scenario: &'static str,
    /// The commit that was measured; `-dirty` if the checkout differs from it.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
    /// Cores, memory, kernel.
    pub machine: String,
    /// Planned hand-overs at each size.
    pub n: usize,
    /// The figures.
    pub figures: Figures,
    /// What nothing here can be faster than.
    pub floors: Floors,
    /// Where the time goes and what failed, for people.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// Scenarios that broke off, and why. Such a report is not written as results.
    #[serde(skip)]
    pub broken: Vec<String>,
}

/// The figures of each scenario that was run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Planned hand-overs, by size of the fleet.
    pub planned: Vec<Planned>,
    /// A killed leader.
    pub sigkill: Option<Sigkill>,
    /// A frozen leader.
    pub sigstop: Option<Sigstop>,
    /// Hand-overs under load.
    pub load: Option<Steady>,
    /// Rolling restarts.
    pub restarts: Option<Restarts>,
}

impl Report {
    /// An empty one of this commit, this day, this machine.
    #[must_use]
    pub fn here(n: usize, floors: Floors) -> Self {
        Self {
            scenario: "handover",
            commit: commit(),
            date: chrono::Utc::now().format("%F").to_string(),
            machine: machine(),
            n,
            figures: Figures::default(),
            floors,
            notes: Vec::new(),
            broken: Vec::new(),
        }
    }
}

/// The commit of this checkout, `-dirty` if it differs from it. Results of an earlier run do not make it another one.
#[must_use]
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", "..", ":!results"]);
    if changed.is_some_and(|changed| changed.is_empty()) { head } else { format!("{head}-dirty") }
}

/// Cores, memory, kernel.
#[must_use]
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let gib = total.unwrap_or(0.0_f64) / 1_048_576.0;
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    format!("{cores} cores, {gib:.0} GiB, Linux {kernel}")
}
