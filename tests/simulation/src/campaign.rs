//! Many schedules in a row: counts, the first violation with what is needed to replay it, and the shrinker.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Options, Report, run};

/// What many schedules did.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How many were run.
    pub schedules: u64,
    /// Events in all of them.
    pub steps: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Leaderships that began.
    pub terms: u64,
    /// Longest way from the end of the faults to a fleet at rest, in milliseconds of the world.
    pub longest_convergence_ms: u64,
    /// Seeds that failed, and why.
    pub violations: Vec<(u64, String)>,
}

impl Tally {
    /// Runs one more schedule and counts it.
    pub fn run(&mut self, seed: u64, options: &Options) {
        let report = run_caught(seed, options);
        self.schedules += 1;
        self.steps += report.steps;
        self.writes += report.writes;
        self.terms += report.terms;
        self.longest_convergence_ms = self.longest_convergence_ms.max(report.converged_ms);
        for (kind, count) in report.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if let Some(violation) = report.violation {
            self.violations.push((seed, violation));
        }
    }
}

/// Runs a schedule; a panic in it is a violation.
#[must_use]
pub fn run_caught(seed: u64, options: &Options) -> Report {
    catch_unwind(AssertUnwindSafe(|| run(seed, options))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let violation = Some(format!("panic: {}", text.unwrap_or_default()));
        Report { violation, ..Report::default() }
    })
}

/// Leaves faults out one by one for as long as the schedule still fails.
#[must_use]
pub fn shrink(seed: u64, options: &Options) -> Options {
    let faults = run_caught(seed, options).schedule.len();
    let mut smallest = options.clone();
    for place in 0..faults {
        let mut skip: BTreeSet<usize> = smallest.skip.clone();
        skip.insert(place);
        let tried = Options { skip, ..smallest.clone() };
        if run_caught(seed, &tried).violation.is_some() {
            smallest = tried;
        }
    }
    smallest
}

/// What a reader needs of a failed schedule: why, the faults that it takes, the last steps, and how to see it again.
#[must_use]
pub fn explain(seed: u64, options: &Options) -> String {
    let smallest = Options { trace: true, ..shrink(seed, options) };
    let report = run_caught(seed, &smallest);
    let mut text = format!("seed {seed}: {}\n", report.violation.as_deref().unwrap_or("no violation"));
    for (place, fault) in report.schedule.iter().enumerate().filter(|(place, _)| !smallest.skip.contains(place)) {
        text += &format!("  fault {place}: {fault}\n");
    }
    for step in &report.last_steps {
        text += &format!("  {step}\n");
    }
    text + &format!("replay: make simulate SEED={seed} SECONDS=0\n")
}
