//! What goes wrong, and when: a schedule's faults are drawn before it begins, so that one can be left out of a replay.

use std::fmt;

use crate::Us;
use crate::dice::Dice;

/// One fault. Members and agents are numbers; times are microseconds of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL; the process is started again after `down`.
    Crash {
        /// Who.
        member: usize,
        /// For how long.
        down: Us,
        /// Started again with `--start-as-candidate`.
        asks: bool,
        /// The host is lost: nobody refuses, no session is closed.
        host: bool,
    },
    /// SIGSTOP, and SIGCONT after `span`.
    Pause {
        /// Who.
        member: usize,
        /// For how long.
        span: Us,
    },
    /// SIGTERM; started again after `down`.
    Terminate {
        /// Who.
        member: usize,
        /// For how long.
        down: Us,
        /// Started again with `--start-as-candidate`.
        asks: bool,
    },
    /// A link carries nothing.
    Cut {
        /// One end: members come first, then the database, then the agents.
        a: usize,
        /// The other.
        b: usize,
        /// For how long.
        span: Us,
    },
    /// The database is away.
    DatabaseDown {
        /// For how long.
        span: Us,
    },
    /// It comes back without its latest commits.
    LostCommits {
        /// For how long it is away.
        span: Us,
    },
    /// The database ends all sessions of a member.
    BreakSessions {
        /// Whose.
        member: usize,
    },
    /// An operator has a member take over.
    TakeOver {
        /// Which.
        member: usize,
        /// With `--force`.
        force: bool,
    },
    /// An operator has whoever leads step down.
    StepDown {
        /// Who is asked.
        member: usize,
    },
    /// An agent dies and comes back.
    AgentCrash {
        /// Which.
        agent: usize,
        /// For how long.
        down: Us,
    },
}

impl Kind {
    /// Its name in counts and results.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Crash { host: false, .. } => "crash",
            Self::Crash { host: true, .. } => "host_lost",
            Self::Pause { .. } => "pause",
            Self::Terminate { .. } => "sigterm",
            Self::Cut { .. } => "cut",
            Self::DatabaseDown { .. } => "database_down",
            Self::LostCommits { .. } => "lost_commits",
            Self::BreakSessions { .. } => "sessions_ended",
            Self::TakeOver { .. } => "take_over",
            Self::StepDown { .. } => "step_down",
            Self::AgentCrash { .. } => "agent_crash",
        }
    }
}

/// A fault and its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub at: Us,
    /// What.
    pub kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms {:?}", self.at / 1000, self.kind)
    }
}

/// Draws the faults of a schedule that ends them at `end`.
#[must_use]
pub fn draw(dice: &mut Dice, members: usize, agents: usize, lease: Us, end: Us) -> Vec<Fault> {
    let count = dice.within(2, 14);
    let nodes = members + 1 + agents;
    let loses = dice.chance(60);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let at = dice.within(0, end);
            let member = dice.index(members);
            let span = match dice.within(0, 2) {
                0 => dice.within(lease / 100, lease / 5),
                1 => dice.within(lease / 5, lease),
                _ => dice.within(lease, lease * 2),
            };
            let asks = dice.chance(500);
            let kind = match dice.within(0, 99) {
                0..=15 => Kind::Crash { member, down: span, asks, host: false },
                16..=21 => Kind::Crash { member, down: span, asks, host: true },
                22..=38 => Kind::Pause { member, span },
                39..=50 => Kind::Terminate { member, down: span, asks },
                51..=65 => Kind::Cut { a: dice.index(nodes), b: dice.index(nodes), span },
                66..=71 if loses => Kind::LostCommits { span: span / 2 },
                66..=73 => Kind::DatabaseDown { span },
                74..=78 => Kind::BreakSessions { member },
                79..=86 => Kind::TakeOver { member, force: dice.chance(300) },
                87..=91 => Kind::StepDown { member },
                _ => Kind::AgentCrash { agent: dice.index(agents), down: span / 2 },
            };
            Fault { at, kind }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at);
    faults
}
