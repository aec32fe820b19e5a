//! The command line's shape. Parsing only; what a verb does is in the noun's file.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pgfleet_api::{ComputeId, Generation};

use crate::completions::Shell;
use crate::config::ConfigVerb;
use crate::connect::Connection;
use crate::exit;
use crate::local::LocalVerb;
use crate::rollout::RolloutVerb;

/// Operate a pgfleet cluster.
#[derive(Debug, Parser)]
#[command(name = "pgfleet", version, about, after_help = exit::HELP, arg_required_else_help = true)]
pub struct Cli {
    /// Tables for people, JSON for programs.
    #[arg(short, long, value_enum, global = true, default_value = "table")]
    pub output: Output,
    // After the others: its heading holds for what follows.
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub noun: Noun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Show who leads, give the leadership to another member, show who led. Without a verb: show.
    Leader {
        #[command(subcommand)]
        verb: Option<LeaderVerb>,
    },
    /// List, change and watch computes.
    Compute {
        #[command(subcommand)]
        verb: ComputeVerb,
    },
    /// Show what a spec would do, without doing it: verdict, settings by class, changes in words.
    Plan(PlanArgs),
    /// Change the specs of many computes in waves, watch what becomes of them, go back.
    Rollout {
        #[command(subcommand)]
        verb: RolloutVerb,
    },
    /// Check that leadership kept its promises: in the recording of a run, or in what a live cluster remembers.
    Verify(VerifyArgs),
    /// Keep the clusters that you work with by name: endpoints, token file, CA.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print the completion script of a shell; bash: source <(pgfleet completions bash).
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page, of this program or of one of its commands; try: pgfleet man | man -l -
    Man {
        /// The command, like compute put. Default: the program.
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
        /// Write the pages of all commands into this directory instead; it is made if it does not exist.
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        dir: Option<PathBuf>,
    },
    /// Run a whole cluster on this machine.
    Local {
        #[command(subcommand)]
        verb: LocalVerb,
    },
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// With --compute: a spec's JSON. Without: newline-delimited JSON as POST /control/v1/compute/apply takes it, like
    /// {"compute_id": "orders", "spec": {…}}. - reads standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The compute that the spec is meant for; may be given more than once.
    #[arg(long = "compute", value_name = "ID")]
    pub computes: Vec<ComputeId>,
    /// Show settings that keep their value as well.
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["file", "live"]))]
#[command(after_help = "\
Each invariant is kept, broken, not decided (the search took too long: not a pass) or not checked (nothing bears on it).
Exit codes: 0 nothing is broken; 1 something is broken or not decided; 64 no such file, or not a history; 69 no controller
answered.")]
pub struct VerifyArgs {
    /// A history: newline-delimited JSON, as the chaos suite records it. - reads standard input.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The leader history, the journals, the computes and the members of a cluster, as they are now. Reads, and changes
    /// nothing.
    #[arg(long)]
    pub live: bool,
    /// With FILE: it must have faults, and load that went on after them.
    #[arg(long, conflicts_with = "live")]
    pub expect_faults: bool,
    /// With FILE: how many seconds the search for a linearization may take.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        conflicts_with = "live",
        value_parser = clap::value_parser!(u64).range(1..=86400)
    )]
    pub search_limit: u64,
}

#[derive(Debug, Subcommand)]
pub enum LeaderVerb {
    /// Show the leader and the members that follow it.
    Show,
    /// Have another member take over; the leader steps down for it.
    Transfer(TransferArgs),
    /// Show the terms there were, the newest first.
    History {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
}

#[derive(Debug, Args)]
pub struct TransferArgs {
    /// The member that is to lead, by its address or its instance id. Default: the one that lags least.
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<String>,
    /// Also to a member whose migration failed a short while ago.
    #[arg(long)]
    pub force: bool,
    /// Give up after this many seconds; a migration may take long.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

#[derive(Debug, Subcommand)]
pub enum ComputeVerb {
    /// List computes, ordered by id.
    List(ListArgs),
    /// Show one compute, or its spec.
    Get {
        id: ComputeId,
        /// Show the spec asked for instead.
        #[arg(long)]
        spec: bool,
    },
    /// Register a compute (--agent-url) and ask for a spec (--spec); repeating it changes nothing.
    Put(PutArgs),
    /// Wait until a compute has applied its spec.
    Wait {
        id: ComputeId,
        /// This generation or a later one; default: the current one.
        #[arg(long, value_parser = generation)]
        generation: Option<Generation>,
        /// Give up after this many seconds.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=600))]
        timeout: u64,
    },
    /// Register and change many computes: newline-delimited JSON, like {"compute_id": "orders", "agent_url": "http://…",
    /// "spec": {…}}. Each line is answered; a bad one ends nothing, and the exit code is 1 then.
    Apply(ApplyArgs),
    /// Say how far the leader may go with a compute by itself.
    Policy {
        id: ComputeId,
        /// active: it follows its spec. pause: hands off. stop: it is ended, and kept so.
        #[arg(value_enum, required_unless_present = "suspend")]
        mode: Option<PolicyMode>,
        /// When it is ended: once it has been idle for the spec's suspend_timeout_seconds, or never.
        #[arg(long, value_enum)]
        suspend: Option<Suspend>,
        #[command(flatten)]
        why: Why,
    },
    /// End computes once. Their agents end as well; whoever starts an agent again starts the compute again.
    Terminate {
        #[arg(required = true)]
        ids: Vec<ComputeId>,
        /// Without waiting for anything: PostgreSQL recovers at its next start.
        #[arg(long)]
        immediate: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Have the specs of computes applied again, also those that were given up.
    Refresh {
        #[arg(required = true)]
        ids: Vec<ComputeId>,
        #[command(flatten)]
        why: Why,
    },
    /// Say why a compute is as it is, what happens next, and what can be done.
    Explain { id: ComputeId },
    /// Show what became of a compute, the newest first: who, why, what.
    History(HistoryArgs),
    /// Show what is committed, as it is; with -o json one object per line.
    Watch(WatchArgs),
    /// Forget computes; they keep running.
    Delete {
        #[arg(required = true)]
        ids: Vec<ComputeId>,
        /// End them first; they are forgotten once they have ended.
        #[arg(long)]
        terminate: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Have a compute worked on again that is quarantined: work on it panicked too often, or its agent says what is beyond
    /// belief.
    Unquarantine {
        id: ComputeId,
        #[command(flatten)]
        why: Why,
    },
}

/// What every verb that changes something takes.
#[derive(Debug, Args)]
pub struct Why {
    /// Why; it goes into the journal. One line of at most 500 bytes.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The lines; - reads standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub why: Why,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    pub id: ComputeId,
    /// How many lines.
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
    /// Only what came before this change: the last one of an earlier call.
    #[arg(long, value_name = "CHANGE")]
    pub before: Option<i64>,
    /// Only from this moment on: 2026-11-24T10:00:00Z, or so long ago: 90m, 7d.
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub since: Option<When>,
    /// Only before this moment.
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub until: Option<When>,
    /// Only what somebody asked for, or only what agents reported.
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Begin after this change. Default: now.
    #[arg(long, value_name = "CHANGE")]
    pub from: Option<i64>,
    /// Only what is about this compute.
    #[arg(long, value_name = "ID")]
    pub compute: Option<ComputeId>,
    /// End after so many lines.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyMode {
    Active,
    Pause,
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Action,
    Transition,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Transition => "transition",
        }
    }
}

/// A moment, or a distance from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(DateTime<Utc>),
    Ago(chrono::Duration),
}

impl When {
    pub fn at(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(moment) => moment,
            Self::Ago(distance) => now.checked_sub_signed(distance).unwrap_or(DateTime::UNIX_EPOCH),
        }
    }
}

fn when(text: &str) -> Result<When, String> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(When::At(moment.to_utc()));
    }
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: i64 = number.parse().ok().filter(|number| (0..=1_000_000).contains(number))?;
        match unit {
            "s" => Some(chrono::Duration::seconds(number)),
            "m" => Some(chrono::Duration::minutes(number)),
            "h" => Some(chrono::Duration::hours(number)),
            "d" => Some(chrono::Duration::days(number)),
            _ => None,
        }
    };
    ago().map(When::Ago).ok_or_else(|| "write it as 2026-11-24T10:00:00Z, or as 30s, 90m, 12h, 7d ago".to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suspend {
    WhenIdle,
    Never,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only computes whose agent reported this state, like running or failed.
    #[arg(long)]
    pub state: Option<String>,
    /// Only computes with this label.
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Option<String>,
    /// Only computes whose spec is not applied.
    #[arg(long)]
    pub lagging: bool,
}

#[derive(Debug, Args)]
pub struct PutArgs {
    pub id: ComputeId,
    /// File with the spec's JSON; - reads standard input.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["agent_url", "labels"])]
    pub spec: Option<PathBuf>,
    /// Base URL of the agent; needed the first time.
    #[arg(long, value_name = "URL")]
    pub agent_url: Option<String>,
    /// A label; the labels given replace those there were.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Only if this is the current generation of the spec.
    #[arg(long, value_name = "GENERATION", value_parser = generation, requires = "spec")]
    pub if_match: Option<Generation>,
    /// Wait until the spec is applied.
    #[arg(long, requires = "spec")]
    pub wait: bool,
    #[command(flatten)]
    pub why: Why,
    /// With --wait: give up after this many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub timeout: u64,
}

impl PutArgs {
    pub const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

fn generation(text: &str) -> Result<Generation, String> {
    match text.parse() {
        Ok(number) if number >= 0 => Ok(Generation(number)),
        _ => Err("it must be a number, 0 or greater".to_owned()),
    }
}

pub fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) || text.len() > 500 {
        Err("write it on one line of at most 500 bytes".to_owned())
    } else {
        Ok(text.trim().to_owned())
    }
}

pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value")?;
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn leader_alone_shows() {
        for line in
            [&["pgfleet", "leader"][..], &["pgfleet", "leader", "-o", "json"], &["pgfleet", "leader", "history"]]
        {
            assert!(Cli::try_parse_from(line).is_ok(), "{line:?}");
        }
        assert!(Cli::try_parse_from(["pgfleet", "leader", "history", "-n", "0"]).is_err());
    }

    #[test]
    fn a_put_needs_something_to_put() {
        assert!(Cli::try_parse_from(["pgfleet", "compute", "put", "c1"]).is_err());
        assert!(Cli::try_parse_from(["pgfleet", "compute", "put", "c1", "--wait", "--agent-url", "http://a"]).is_err());
        assert!(Cli::try_parse_from(["pgfleet", "compute", "put", "c1", "--spec", "-", "--wait"]).is_ok());
        assert!(Cli::try_parse_from(["pgfleet", "compute", "put", "a/b", "--spec", "-"]).is_err());
        assert!(Cli::try_parse_from(["pgfleet", "compute", "put", "c", "--label", "novalue"]).is_err());
    }

    #[test]
    fn one_thing_is_verified() {
        let with = |more: &[&str]| Cli::try_parse_from([&["pgfleet", "verify"], more].concat());
        assert!(with(&["run.ndjson"]).is_ok() && with(&["-", "--expect-faults"]).is_ok() && with(&["--live"]).is_ok());
        assert!(with(&[]).is_err() && with(&["--live", "run.ndjson"]).is_err());
        assert!(with(&["--live", "--expect-faults"]).is_err());
    }

    #[test]
    fn a_policy_names_what_changes() {
        let with = |more: &[&str]| Cli::try_parse_from([&["pgfleet", "compute", "policy", "c1"], more].concat());
        assert!(with(&["--suspend", "when-idle", "--reason", "nights"]).is_ok());
        assert!(with(&["--suspend", "never"]).is_ok() && with(&["stop"]).is_ok());
        assert!(with(&["pause", "--suspend", "never"]).is_ok() && with(&["halt"]).is_err());
        assert!(with(&[]).is_err() && with(&["--suspend", "sometimes"]).is_err());
    }

    #[test]
    fn a_moment_or_a_distance() {
        let now = DateTime::parse_from_rfc3339("2026-11-24T10:00:00Z").unwrap().to_utc();
        let at = |text: &str| when(text).map(|when| when.at(now).to_rfc3339());
        assert_eq!(at("2026-11-24T09:00:00+01:00").as_deref(), Ok("2026-11-24T08:00:00+00:00"));
        assert_eq!(at("90m").as_deref(), Ok("2026-11-24T08:30:00+00:00"));
        assert_eq!(at("7d").as_deref(), Ok("2026-11-17T10:00:00+00:00"));
        for bad in ["", "m", "yesterday", "-1h", "1w", "\u{e9}"] {
            assert!(when(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reason_fits_into_a_header() {
        let with = |reason: &str| Cli::try_parse_from(["pgfleet", "compute", "unquarantine", "c1", "--reason", reason]);
        assert!(with("fixed in 0.2, see #7").is_ok() && with("\u{e9}t\u{e9}").is_ok());
        for bad in ["", " ", "two\nlines", &"x".repeat(501)] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }
}
