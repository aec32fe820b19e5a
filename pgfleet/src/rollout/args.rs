//! The command line's shape of `pgfleet rollout`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use pgfleet_api::RolloutId;
use pgfleet_api::rollout::Amount;

use crate::cli::{label, reason};

const HELP: &str = "\
With --watch the exit code is that of the end: 0 done; 1 it halted, was aborted or was rolled back by somebody else;
2 done, but for computes that failed, were skipped, or had been changed by somebody else.";

#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub enum RolloutVerb {
    /// Change the specs of all computes with these labels: a canary first, then wave by wave.
    #[command(after_help = HELP)]
    Start(Box<StartArgs>),
    /// Show how far a roll-out is.
    Status {
        id: RolloutId,
        /// Until nothing more happens to it.
        #[arg(long)]
        watch: bool,
    },
    /// List roll-outs, the newest first.
    List {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Touch nothing more for now; what was touched is watched on.
    Pause(CommandArgs),
    /// Go on after a pause or a halt; after a halt, what failed so far is accepted.
    Resume(CommandArgs),
    /// End it; what was touched keeps its new spec.
    Abort(CommandArgs),
    /// Give every compute that still has this roll-out's spec its previous one; also when it was done.
    Rollback(CommandArgs),
}

#[derive(Debug, Args)]
pub struct CommandArgs {
    pub id: RolloutId,
    /// Why; it goes into the journal. One line of at most 500 bytes.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// Until nothing more happens to it.
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["labels", "all"]))]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["set", "unset", "patch"]))]
pub struct StartArgs {
    /// Only computes with this label; given more than once, those that have all of them.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Every compute of the fleet.
    #[arg(long)]
    pub all: bool,
    /// Set a setting.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub set: Vec<(String, String)>,
    /// Take a setting out of the specs.
    #[arg(long, value_name = "NAME")]
    pub unset: Vec<String>,
    /// File with a patch: {"settings": {…}, "roles": […], "remove_roles": […], "databases": […], "remove_databases": […]};
    /// - reads standard input.
    #[arg(long, value_name = "FILE")]
    pub patch: Option<PathBuf>,
    /// Name of the roll-out; default: a new random one.
    #[arg(long, value_name = "NAME")]
    pub id: Option<RolloutId>,
    /// Computes that are changed first, a number or a share like 5%; 0: none. [default: 1]
    #[arg(long, value_name = "AMOUNT")]
    pub canary: Option<Amount>,
    /// Computes of each later wave. [default: 10%]
    #[arg(long, value_name = "AMOUNT")]
    pub wave: Option<Amount>,
    /// Computes that may at one time be changed and not healthy; failed ones count. [default: 5%, at least 1]
    #[arg(long, value_name = "AMOUNT")]
    pub max_unavailable: Option<Amount>,
    /// Seconds for which a finished wave must stay healthy. [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub soak: Option<u32>,
    /// Seconds in which a changed compute must have applied its spec and run. [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub gate_timeout: Option<u32>,
    /// Computes that may fail; one more halts the roll-out. Below --max-unavailable. [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub error_budget: Option<u32>,
    /// Why; it goes into the journal. One line of at most 500 bytes.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// Write nothing: show who would be touched, and in which wave.
    #[arg(long, conflicts_with = "watch")]
    pub dry_run: bool,
    /// Until nothing more happens to it.
    #[arg(long)]
    pub watch: bool,
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser as _;

    #[test]
    fn a_roll_out_names_whom_and_what() {
        let with = |more: &[&str]| Cli::try_parse_from([&["pgfleet", "rollout", "start"], more].concat()).is_ok();
        assert!(with(&[
            "--label",
            "env=prod",
            "--set",
            "work_mem=64MB",
            "--unset",
            "jit",
            "--canary",
            "2",
            "--wave",
            "5%"
        ]));
        assert!(with(&["--all", "--patch", "-", "--watch"]));
        for bad in [
            &["--set", "a=b"][..],
            &["--all"],
            &["--all", "--label", "a=b", "--set", "a=b"],
            &["--all", "--set", "a=b", "--wave", "0%"],
            &["--all", "--set", "novalue"],
            &["--all", "--set", "a=b", "--dry-run", "--watch"],
        ] {
            assert!(!with(bad), "{bad:?}");
        }
    }
}
