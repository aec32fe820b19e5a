//! The plan of a run, from the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// A measured scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Specs accepted durably per second.
    Accept,
    /// Specs handed to agents per second.
    Push,
    /// One change of many computes, until all of it is applied and recorded.
    Converge,
    /// What a fleet costs that has nothing to do, and what its API answers beside.
    Steady,
    /// Half of the agents vanish and return.
    Storm,
    /// From the start of a process over a large fleet until it serves, and its memory.
    Start,
    /// The page of metrics.
    Scrape,
    /// How the cost of a quiet fleet grows with its size.
    Growth,
}

impl Scenario {
    /// As its results are called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Push => "push",
            Self::Converge => "converge",
            Self::Steady => "steady",
            Self::Storm => "storm",
            Self::Start => "start",
            Self::Scrape => "scrape",
            Self::Growth => "growth",
        }
    }
}

/// Every scenario, in the order of a run.
pub const ALL: [Scenario; 8] = [
    Scenario::Accept,
    Scenario::Scrape,
    Scenario::Start,
    Scenario::Push,
    Scenario::Converge,
    Scenario::Steady,
    Scenario::Storm,
    Scenario::Growth,
];

/// Measures a leader with a large fleet on this machine: private PostgreSQL, real processes.
///
/// A scenario that is measured whole is written to its name .json and .md. With other numbers it is only printed.
#[derive(Debug, Clone, Parser)]
#[command(name = "fleet", version, about, long_about, term_width = 100)]
pub struct Plan {
    /// Only these, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = ALL)]
    pub scenarios: Vec<Scenario>,
    /// Other sizes of the fleet, in computes, than the scenarios have by themselves; comma-separated.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sizes: Vec<u32>,
    /// How often each scenario is measured; the medians count.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Everything small and once, to see that it works: no targets, and nothing is written.
    #[arg(long)]
    pub quick: bool,
    /// Where the results are written.
    #[arg(long, default_value = "bench/results")]
    pub out: PathBuf,
}

impl Plan {
    /// Whether its figures may stand as the results.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.quick && self.runs >= 3 && self.sizes.is_empty()
    }

    /// How often each scenario is measured.
    #[must_use]
    pub fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.runs.max(1) }
    }

    /// The sizes of a scenario that has these by itself, ascending.
    #[must_use]
    pub fn sizes_of(&self, own: &[usize], quick: &[usize]) -> Vec<usize> {
        let mut sizes: Vec<usize> = if !self.sizes.is_empty() {
            self.sizes.iter().map(|size| *size as usize).collect()
        } else if self.quick {
            quick.to_vec()
        } else {
            own.to_vec()
        };
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// The size of a scenario that has one.
    #[must_use]
    pub fn size_of(&self, own: usize, quick: usize) -> usize {
        self.sizes_of(&[own], &[quick]).last().copied().unwrap_or(own)
    }

    /// How long something is measured: this many seconds, or a moment.
    #[must_use]
    pub fn window(&self, seconds: f64, quick: f64) -> Duration {
        Duration::from_secs_f64(if self.quick { quick } else { seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Plan {
        Plan::parse_from([&["fleet"], args].concat())
    }

    #[test]
    fn only_the_whole_plan_is_written() {
        assert!(plan(&[]).is_whole() && plan(&["--scenarios", "push,storm"]).is_whole());
        assert!(!plan(&["--runs", "2"]).is_whole());
        assert!(!plan(&["--sizes", "100"]).is_whole());
        assert!(!plan(&["--quick"]).is_whole());
    }

    #[test]
    fn sizes_are_the_scenarios_own_unless_it_is_said() {
        assert_eq!(plan(&[]).sizes_of(&[10, 5], &[1]), [5, 10]);
        assert_eq!(plan(&["--quick"]).sizes_of(&[10, 5], &[1]), [1]);
        assert_eq!(plan(&["--quick", "--sizes", "7,3,7"]).sizes_of(&[10, 5], &[1]), [3, 7]);
        assert_eq!(plan(&["--sizes", "7,3"]).size_of(10, 1), 7);
        assert_eq!(plan(&["--quick"]).rounds(), 1);
        assert_eq!(ALL.map(Scenario::name).len(), 8);
    }
}
