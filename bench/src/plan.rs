//! The plan of a run, from the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A measured scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Hand-overs at fleets of several sizes: the gap in writes and reads.
    Planned,
    /// The leader is killed: the time to the next write.
    Sigkill,
    /// The leader is frozen and let go: the time to the next write, and what the old one does.
    Sigstop,
    /// Hand-over after hand-over under a steady load: how many requests fail.
    Load,
    /// Rolling restarts: how many requests fail.
    Restarts,
}

/// Measures changes of leader on this machine: private PostgreSQL, real processes.
///
/// The whole plan is written to handover.json and handover.md. A part of it, or one with other numbers, is only printed.
#[derive(Debug, Clone, Parser)]
#[command(name = "handover", version, about, long_about, term_width = 100)]
pub struct Plan {
    /// Only these, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = ALL)]
    pub scenarios: Vec<Scenario>,
    /// Sizes of the fleet for planned hand-overs, in computes.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 10_000, 100_000])]
    pub sizes: Vec<usize>,
    /// Size of the fleet for everything else, in computes.
    #[arg(long, default_value_t = 10_000)]
    pub computes: usize,
    /// Planned hand-overs at each size.
    #[arg(long, default_value_t = 30)]
    pub planned: usize,
    /// Leaders to be killed.
    #[arg(long, default_value_t = 30)]
    pub kills: usize,
    /// Leaders to be frozen.
    #[arg(long, default_value_t = 5)]
    pub stops: usize,
    /// Hand-overs under load.
    #[arg(long, default_value_t = 100)]
    pub under_load: usize,
    /// Writes per second under load, over all members.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub writes_per_s: u32,
    /// Reads per second under load, over all members.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub reads_per_s: u32,
    /// Processes to be replaced.
    #[arg(long, default_value_t = 20)]
    pub restarts: usize,
    /// At most so many rounds of everything, for a quick look.
    #[arg(long)]
    pub runs: Option<usize>,
    /// Where the results of the whole plan are written.
    #[arg(long, default_value = "bench/results")]
    pub out: PathBuf,
}

/// Every scenario, in the order of a run.
pub const ALL: [Scenario; 5] =
    [Scenario::Planned, Scenario::Sigkill, Scenario::Sigstop, Scenario::Load, Scenario::Restarts];

impl Plan {
    /// The command line with the limit of rounds worked in.
    #[must_use]
    pub fn limited(mut self) -> Self {
        if let Some(most) = self.runs {
            let numbers =
                [&mut self.planned, &mut self.kills, &mut self.stops, &mut self.under_load, &mut self.restarts];
            for number in numbers {
                *number = most.min(*number);
            }
        }
        self
    }

    /// Whether its figures may stand as the results: nothing is left out and nothing is smaller.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let whole = Self::parse_from(["handover"]);
        let numbers = |plan: &Self| {
            let rounds = [plan.planned, plan.kills, plan.stops, plan.under_load, plan.restarts];
            (plan.sizes.clone(), plan.computes, rounds, plan.writes_per_s, plan.reads_per_s)
        };
        ALL.iter().all(|one| self.scenarios.contains(one)) && numbers(self) == numbers(&whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Plan {
        Plan::parse_from([&["handover"], args].concat()).limited()
    }

    #[test]
    fn only_the_whole_plan_is_written() {
        assert!(plan(&[]).is_whole());
        assert!(plan(&["--out", "elsewhere", "--runs", "1000"]).is_whole());
        assert!(!plan(&["--runs", "2"]).is_whole());
        assert!(!plan(&["--scenarios", "planned,sigkill"]).is_whole());
        assert!(!plan(&["--sizes", "100"]).is_whole());
        assert!(!plan(&["--writes-per-s", "499"]).is_whole());
        assert_eq!(plan(&["--runs", "7"]).kills, 7);
        assert_eq!(plan(&["--runs", "7"]).stops, 5);
    }
}
