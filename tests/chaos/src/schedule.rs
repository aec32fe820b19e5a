//! What a run does to its fleet and when, drawn from a seed. Pure: the same seed gives the same schedule.
//!
//! Who calls it: [`crate::run`]. A schedule names roles, not processes (`Leader`, a follower): who that is turns out when
//! the step is due. Consecutive seeds walk through scenarios, pause points and first faults in turn, so that a row of runs
//! covers all of them; the rest of a schedule is drawn.

use std::fmt;

use crate::draw::Draw;

/// Something that can be done to a fleet. The words are stable: results and histories have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SIGKILL of a member, which is started again.
    KillMember,
    /// SIGSTOP of a member, and SIGCONT.
    FreezeMember,
    /// SIGTERM of a member, which is started again and asks to lead.
    RestartMember,
    /// An operator has a member take over.
    HandOver,
    /// PostgreSQL is stopped in order and started again.
    RestartDatabase,
    /// PostgreSQL crashes and recovers.
    CrashDatabase,
    /// SIGKILL of the postmaster.
    KillDatabase,
    /// SIGSTOP of all of PostgreSQL, and SIGCONT.
    FreezeDatabase,
    /// All sessions of one member are ended.
    EndSessions,
    /// Another session holds the leader row.
    LockLeaderRow,
    /// Another session holds the computes' table.
    LockComputes,
    /// A member's link to the database is cut.
    DatabaseLinkCut,
    /// A member's link to the database is slow.
    DatabaseLinkDelay,
    /// A member's link to the database is silent and stays open.
    DatabaseLinkHalfOpen,
    /// What other members send to a member is cut.
    MemberLinkCut,
    /// What members say to each other is slow.
    MemberLinkDelay,
    /// What members say to each other is swallowed.
    MemberLinkHalfOpen,
    /// Answers of a member end in the middle.
    MemberLinkMidBody,
    /// A member's port answers RST while it lives.
    MemberReset,
    /// The link to an agent is cut.
    AgentLinkCut,
    /// The link to an agent is slow.
    AgentLinkDelay,
    /// The link to an agent is silent.
    AgentLinkHalfOpen,
    /// An agent's answers end in the middle.
    AgentLinkMidBody,
    /// A member's clock jumps ahead, and back.
    ClockAhead,
    /// A member's clock jumps back, and ahead again.
    ClockBack,
    /// SIGKILL of an agent, which is started again.
    KillAgent,
    /// SIGSTOP of an agent, and SIGCONT.
    FreezeAgent,
    /// An agent ends in order and is started again, several times.
    FlapAgent,
    /// SIGKILL of a compute's postmaster.
    KillCompute,
    /// All members boot at once on an empty database.
    FirstBootsAtOnce,
    /// Three members that ask to lead are started at once.
    CandidatesAtOnce,
    /// A member takes over with a migration that fails.
    FailingMigration,
    /// A member takes over with a slow migration, and is frozen in the middle of it.
    SlowMigration,
    /// The database is put back to an earlier copy.
    CommitsLost,
}

impl Kind {
    /// What can strike any fleet at any moment, in the order in which consecutive seeds begin with them.
    pub const GENERAL: [Self; 29] = [
        Self::KillMember,
        Self::DatabaseLinkCut,
        Self::RestartDatabase,
        Self::MemberLinkHalfOpen,
        Self::FreezeMember,
        Self::AgentLinkCut,
        Self::HandOver,
        Self::DatabaseLinkHalfOpen,
        Self::KillAgent,
        Self::CrashDatabase,
        Self::MemberReset,
        Self::RestartMember,
        Self::EndSessions,
        Self::AgentLinkHalfOpen,
        Self::ClockAhead,
        Self::KillDatabase,
        Self::MemberLinkMidBody,
        Self::FreezeAgent,
        Self::LockLeaderRow,
        Self::DatabaseLinkDelay,
        Self::ClockBack,
        Self::MemberLinkCut,
        Self::FlapAgent,
        Self::FreezeDatabase,
        Self::AgentLinkDelay,
        Self::KillCompute,
        Self::MemberLinkDelay,
        Self::LockComputes,
        Self::AgentLinkMidBody,
    ];

    /// What a scenario is about; it strikes only there.
    pub const SPECIAL: [Self; 5] = [
        Self::FirstBootsAtOnce,
        Self::CandidatesAtOnce,
        Self::FailingMigration,
        Self::SlowMigration,
        Self::CommitsLost,
    ];

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KillMember => "kill_member",
            Self::FreezeMember => "freeze_member",
            Self::RestartMember => "restart_member",
            Self::HandOver => "hand_over",
            Self::RestartDatabase => "restart_database",
            Self::CrashDatabase => "crash_database",
            Self::KillDatabase => "kill_database",
            Self::FreezeDatabase => "freeze_database",
            Self::EndSessions => "end_sessions",
            Self::LockLeaderRow => "lock_leader_row",
            Self::LockComputes => "lock_computes",
            Self::DatabaseLinkCut => "database_link_cut",
            Self::DatabaseLinkDelay => "database_link_delay",
            Self::DatabaseLinkHalfOpen => "database_link_half_open",
            Self::MemberLinkCut => "member_link_cut",
            Self::MemberLinkDelay => "member_link_delay",
            Self::MemberLinkHalfOpen => "member_link_half_open",
            Self::MemberLinkMidBody => "member_link_mid_body",
            Self::MemberReset => "member_reset",
            Self::AgentLinkCut => "agent_link_cut",
            Self::AgentLinkDelay => "agent_link_delay",
            Self::AgentLinkHalfOpen => "agent_link_half_open",
            Self::AgentLinkMidBody => "agent_link_mid_body",
            Self::ClockAhead => "clock_ahead",
            Self::ClockBack => "clock_back",
            Self::KillAgent => "kill_agent",
            Self::FreezeAgent => "freeze_agent",
            Self::FlapAgent => "flap_agent",
            Self::KillCompute => "kill_compute",
            Self::FirstBootsAtOnce => "first_boots_at_once",
            Self::CandidatesAtOnce => "candidates_at_once",
            Self::FailingMigration => "failing_migration",
            Self::SlowMigration => "slow_migration",
            Self::CommitsLost => "commits_lost",
        }
    }

    /// Shortest and longest time for which it lasts, in milliseconds; what happens at once lasts until its repair.
    const fn lasts(self) -> (u64, u64) {
        match self {
            Self::FreezeMember => (300, 3500),
            Self::KillMember | Self::RestartMember | Self::KillAgent => (50, 900),
            Self::FreezeDatabase | Self::LockLeaderRow | Self::LockComputes => (200, 1800),
            Self::RestartDatabase | Self::CrashDatabase | Self::KillDatabase => (50, 1000),
            Self::DatabaseLinkHalfOpen | Self::DatabaseLinkCut => (200, 3000),
            Self::HandOver | Self::EndSessions | Self::KillCompute | Self::FirstBootsAtOnce => (0, 1),
            Self::SlowMigration => (300, 3000),
            Self::CandidatesAtOnce | Self::FailingMigration | Self::FlapAgent => (0, 1),
            Self::CommitsLost => (400, 900),
            Self::DatabaseLinkDelay
            | Self::MemberLinkCut
            | Self::MemberLinkDelay
            | Self::MemberLinkHalfOpen
            | Self::MemberLinkMidBody
            | Self::MemberReset
            | Self::AgentLinkCut
            | Self::AgentLinkDelay
            | Self::AgentLinkHalfOpen
            | Self::AgentLinkMidBody
            | Self::ClockAhead
            | Self::ClockBack
            | Self::FreezeAgent => (200, 2500),
        }
    }

    /// Whether it strikes a member, which is then named by its role.
    const fn strikes_a_member(self) -> bool {
        matches!(
            self,
            Self::KillMember
                | Self::FreezeMember
                | Self::RestartMember
                | Self::EndSessions
                | Self::DatabaseLinkCut
                | Self::DatabaseLinkDelay
                | Self::DatabaseLinkHalfOpen
                | Self::MemberLinkCut
                | Self::MemberLinkDelay
                | Self::MemberLinkHalfOpen
                | Self::MemberLinkMidBody
                | Self::MemberReset
                | Self::ClockAhead
                | Self::ClockBack
        )
    }
}

/// Whom a step strikes; found out when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Whoever leads.
    Leader,
    /// One of those who do not.
    Follower(u64),
    /// One of the agents, where the kind is about agents.
    Agent(u64),
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds after the load began.
    pub at_ms: u64,
    /// What.
    pub kind: Kind,
    /// To whom.
    pub target: Target,
    /// For how many milliseconds.
    pub lasts_ms: u64,
}

/// What is done to a process that stands at its pause point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes on after a while.
    GoOn,
    /// It is frozen there as well, and goes on when it is thawed.
    Freeze,
    /// It is killed there.
    Kill,
}

/// A point at which a process is to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Milliseconds after the load began at which the process with the armed point is started.
    pub at_ms: u64,
    /// The point.
    pub point: &'static str,
    /// Which time it is reached.
    pub nth: u64,
    /// For how many milliseconds.
    pub lasts_ms: u64,
    /// What then.
    pub then: Then,
}

/// The pause points of members and agents, under the names that the programs have for them.
pub const PAUSE_POINTS: [&str; 11] = [
    "after_step_down",
    "after_claim",
    "in_write_tx",
    "mid_migration",
    "before_load",
    "before_push",
    "agent_before_fsync",
    "agent_after_rename",
    "agent_before_apply",
    "agent_mid_apply",
    "agent_before_good",
];

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// A cluster that stands, and faults.
    Steady,
    /// All members boot at once on an empty database.
    FirstBoots,
    /// Three candidates at once.
    Candidates,
    /// A migration that fails.
    FailingMigration,
    /// A slow migration, with SIGSTOP in it.
    SlowMigration,
    /// A process stands still at a named point.
    PausePoint(&'static str),
    /// The database loses its last commits.
    LostCommits,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steady => f.write_str("steady"),
            Self::FirstBoots => f.write_str("first_boots"),
            Self::Candidates => f.write_str("candidates"),
            Self::FailingMigration => f.write_str("failing_migration"),
            Self::SlowMigration => f.write_str("slow_migration"),
            Self::PausePoint(point) => write!(f, "pause:{point}"),
            Self::LostCommits => f.write_str("lost_commits"),
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What it was drawn from.
    pub seed: u64,
    /// What it is about.
    pub scenario: Scenario,
    /// Computes, each with an agent of its own.
    pub computes: usize,
    /// Steps in the order of time.
    pub steps: Vec<Step>,
    /// A point to stand still at.
    pub pause: Option<Pause>,
}

/// How long a member may take to start, to ask for the leadership and to begin its migration before the next step.
const UNTIL_IT_MIGRATES_MS: u64 = 2500;

/// Runs after which the walk through the scenarios begins anew.
const ROUND: u64 = 8;

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut draw = Draw::new(seed ^ 0x6368_616f_7300);
        let scenario = scenario(seed);
        let mut steps = Vec::new();
        let mut at_ms = draw.between(100, 500);
        if let Some(kind) = special(scenario) {
            steps.push(step(&mut draw, kind, at_ms));
            at_ms += draw.between(300, 1200) + if kind == Kind::SlowMigration { UNTIL_IT_MIGRATES_MS } else { 0 };
        }
        let index = usize::try_from(seed % Kind::GENERAL.len() as u64).unwrap_or(0);
        let mut kind = Kind::GENERAL[index];
        for _ in 0..draw.between(3, 6) {
            steps.push(step(&mut draw, kind, at_ms));
            at_ms += draw.between(100, 1100);
            kind = draw.one_of(&Kind::GENERAL);
        }
        let pause = match scenario {
            Scenario::PausePoint(point) => Some(pause(&mut draw, point)),
            Scenario::Steady
            | Scenario::FirstBoots
            | Scenario::Candidates
            | Scenario::FailingMigration
            | Scenario::SlowMigration
            | Scenario::LostCommits => None,
        };
        steps.sort_by_key(|step| step.at_ms);
        let computes = if seed.is_multiple_of(3) { 2 } else { 1 };
        Self { seed, scenario, computes, steps, pause }
    }
}

fn scenario(seed: u64) -> Scenario {
    let round = seed / ROUND;
    match seed % ROUND {
        0..3 => Scenario::Steady,
        3 => Scenario::FirstBoots,
        4 => Scenario::Candidates,
        5 if round.is_multiple_of(2) => Scenario::FailingMigration,
        5 => Scenario::SlowMigration,
        7 if round % 4 == 3 => Scenario::LostCommits,
        at => {
            let turn = round * 2 + u64::from(at == 7);
            Scenario::PausePoint(PAUSE_POINTS[usize::try_from(turn % 11).unwrap_or(0)])
        }
    }
}

const fn special(scenario: Scenario) -> Option<Kind> {
    match scenario {
        Scenario::Candidates => Some(Kind::CandidatesAtOnce),
        Scenario::FailingMigration => Some(Kind::FailingMigration),
        Scenario::SlowMigration => Some(Kind::SlowMigration),
        Scenario::LostCommits => Some(Kind::CommitsLost),
        // The boots are over before the load begins; a pause is no step.
        Scenario::Steady | Scenario::FirstBoots | Scenario::PausePoint(_) => None,
    }
}

fn step(draw: &mut Draw, kind: Kind, at_ms: u64) -> Step {
    let (shortest, longest) = kind.lasts();
    let number = draw.bits() % 64;
    let target = if !kind.strikes_a_member() {
        Target::Agent(number)
    } else if number < 40 {
        Target::Leader
    } else {
        Target::Follower(number)
    };
    Step { at_ms, kind, target, lasts_ms: draw.between(shortest, longest) }
}

fn pause(draw: &mut Draw, point: &'static str) -> Pause {
    let nth = if matches!(point, "in_write_tx" | "before_push") { draw.between(2, 12) } else { 1 };
    let then = draw.one_of(&[Then::GoOn, Then::Freeze, Then::Kill]);
    Pause { at_ms: draw.between(100, 600), point, nth, lasts_ms: draw.between(100, 3000), then }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        for seed in 0..500 {
            assert_eq!(Schedule::of(seed), Schedule::of(seed));
        }
        assert_ne!(Schedule::of(1).steps, Schedule::of(2).steps);
    }

    #[test]
    fn two_hundred_runs_cover_everything() {
        let schedules: Vec<Schedule> = (1..=200).map(Schedule::of).collect();
        let kinds: BTreeSet<Kind> = schedules.iter().flat_map(|one| one.steps.iter().map(|step| step.kind)).collect();
        for kind in Kind::GENERAL.iter().chain(&Kind::SPECIAL) {
            // All members boot at once before the first step.
            assert!(kinds.contains(kind) || *kind == Kind::FirstBootsAtOnce, "{kind:?}");
        }
        let scenarios: BTreeSet<String> = schedules.iter().map(|one| one.scenario.to_string()).collect();
        assert_eq!(scenarios.len(), 6 + PAUSE_POINTS.len(), "{scenarios:?}");
        for point in PAUSE_POINTS {
            let hits = schedules.iter().filter(|one| one.pause.is_some_and(|pause| pause.point == point)).count();
            assert!(hits >= 3, "{point}: {hits}");
        }
    }

    /// A change here means that seeds of earlier reports mean other runs.
    #[test]
    fn a_seed_means_the_same_for_ever() {
        let text = format!("{:?}", Schedule::of(7));
        let fold = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
        assert_eq!(format!("{:016x}", hash), "4c3ff65dc2055df4", "{:#?}", Schedule::of(7));
    }
}
