//! The plan of a run, from the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A measured scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// From nothing to a running PostgreSQL, against initdb and pg_ctl.
    Start,
    /// The SQL of a small spec.
    Small,
    /// The same spec again and again, each time under a new generation.
    Noop,
    /// A large spec against a psql script that does the same; then the agent's memory and idleness.
    Apply,
    /// A changed setting, from the controller to the agent.
    Change,
}

/// Every scenario, in the order of a run.
pub const ALL: [Scenario; 5] = [Scenario::Start, Scenario::Small, Scenario::Noop, Scenario::Apply, Scenario::Change];

/// Measures what an agent costs on this machine: real PostgreSQL, real processes.
///
/// The whole plan is written to agent.json and agent.md. A part of it, or one with other numbers, is only printed.
#[derive(Debug, Clone, Parser)]
#[command(name = "agent", version, about, long_about, term_width = 100)]
pub struct Plan {
    /// Only these, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = ALL)]
    pub scenarios: Vec<Scenario>,
    /// Pairs of starts.
    #[arg(long, default_value_t = 15)]
    pub starts: usize,
    /// Small specs, each at a fresh server.
    #[arg(long, default_value_t = 7)]
    pub smalls: usize,
    /// Specs that change nothing.
    #[arg(long, default_value_t = 200)]
    pub noops: usize,
    /// Pairs of large specs and scripts.
    #[arg(long, default_value_t = 3)]
    pub applies: usize,
    /// Roles of the large spec.
    #[arg(long, default_value_t = 1000)]
    pub roles: usize,
    /// Databases of the large spec; each takes about 15 MB on the disk while it is measured.
    #[arg(long, default_value_t = 500)]
    pub databases: usize,
    /// Changed settings.
    #[arg(long, default_value_t = 200)]
    pub changes: usize,
    /// Seconds over which the idle agent's processor time is taken.
    #[arg(long, default_value_t = 30)]
    pub idle_seconds: u64,
    /// At most so many rounds of everything, for a quick look.
    #[arg(long)]
    pub runs: Option<usize>,
    /// Where the results of the whole plan are written.
    #[arg(long, default_value = "bench/results")]
    pub out: PathBuf,
}

impl Plan {
    /// The command line with the limit of rounds worked in.
    #[must_use]
    pub fn limited(mut self) -> Self {
        if let Some(most) = self.runs {
            for number in [&mut self.starts, &mut self.smalls, &mut self.noops, &mut self.applies, &mut self.changes] {
                *number = most.min(*number);
            }
        }
        self
    }

    /// Whether its figures may stand as the results: nothing is left out and nothing is smaller.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let whole = Self::parse_from(["agent"]);
        let numbers = |plan: &Self| {
            let rounds = [plan.starts, plan.smalls, plan.noops, plan.applies, plan.changes];
            (rounds, plan.roles, plan.databases, plan.idle_seconds)
        };
        ALL.iter().all(|one| self.scenarios.contains(one)) && numbers(self) == numbers(&whole)
    }

    /// What a scenario of this plan does, in words.
    #[must_use]
    pub fn words(&self, scenario: Scenario) -> String {
        match scenario {
            Scenario::Start => format!("{} starts", self.starts),
            Scenario::Small => format!("{} small specs", self.smalls),
            Scenario::Noop => format!("{} specs that change nothing", self.noops),
            Scenario::Apply => format!("{} times {} roles and {} databases", self.applies, self.roles, self.databases),
            Scenario::Change => format!("{} changed settings", self.changes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Plan {
        Plan::parse_from([&["agent"], args].concat()).limited()
    }

    #[test]
    fn only_the_whole_plan_is_written() {
        assert!(plan(&[]).is_whole());
        assert!(plan(&["--out", "elsewhere", "--runs", "1000"]).is_whole());
        for part in [["--runs", "2"], ["--scenarios", "start"], ["--databases", "10"], ["--idle-seconds", "1"]] {
            assert!(!plan(&part).is_whole(), "{part:?}");
        }
        assert_eq!((plan(&["--runs", "5"]).noops, plan(&["--runs", "5"]).applies), (5, 3));
    }
}
