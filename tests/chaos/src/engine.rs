//! Carries a schedule out: strikes when a step is due, heals when it is over, starts again what ended.
//!
//! Who calls it: [`crate::run`]. One task owns all processes of a run and does one thing after the other; faults overlap
//! because they last, not because two tasks inject. Invariant: whatever it struck is on the list of what has to be healed
//! until it is, so [`Engine::heal_all`] leaves a world that can converge.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::controller::Role;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::postgres::{StopMode, TestClient};
use pgfleet_history::Event;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cast::{Cast, Life, MEMBERS};
use crate::faults::proxy::{Mode, Proxy};
use crate::recorder::Recorder;
use crate::schedule::{Kind, Pause, Schedule, Step, Target, Then};
use crate::watchers::Seen;
use crate::{database, links};

/// How often it looks whether something is due.
const TICK: Duration = Duration::from_millis(20);

/// How soon a member that ended by itself is started again.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// How long an armed process may take to come to its point before it is given up.
const PAUSE_PATIENCE: Duration = Duration::from_secs(8);

/// What undoes a fault.
enum Heal {
    StartMember(usize, Life),
    ThawMember(usize),
    /// It is frozen for so many milliseconds as soon as its migration is under way; given up at this time.
    FreezeInMigration(usize, u64, Instant),
    StartDatabase,
    ThawDatabase,
    Release(TestClient),
    StartAgent(usize),
    ThawAgent(usize),
    GoOn,
    Pass(Link),
    Clock(usize),
    /// The database is put back to this copy, which was taken then.
    PutBack(PathBuf, u64),
}

/// A link with a proxy.
#[derive(Debug, Clone, Copy)]
enum Link {
    Agent(usize),
    Member(usize),
    Database(usize),
}

/// A fault that lasts.
struct Lasting {
    until: Instant,
    /// None for what is no fault of its own.
    kind: Option<Kind>,
    target: String,
    heal: Heal,
}

/// Where the pause of a run stands.
enum Standing {
    /// It is not due yet.
    Due(Pause, Instant),
    /// The process with the armed point runs: a member or an agent.
    Armed(Pause, Subject, Instant),
    /// It stands there.
    Paused,
    /// Nothing to wait for.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Member(usize),
    Agent(usize),
}

/// What was done so far, counted.
#[derive(Debug, Default)]
pub struct Done {
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Pause points that were reached.
    pub pauses: BTreeMap<&'static str, u64>,
    /// Members that ended by themselves and were started again, by how they ended.
    pub fallen: BTreeMap<String, u64>,
}

/// The only owner of the processes of a run.
pub struct Engine {
    /// The processes.
    pub cast: Cast,
    /// What was done.
    pub done: Done,
    fleet: Arc<Fleet>,
    recorder: Recorder,
    seen: Arc<Seen>,
    lasting: Vec<Lasting>,
    revivals: BTreeMap<usize, Instant>,
    asked: JoinSet<()>,
    standing: Standing,
}

impl Engine {
    /// Over processes that run.
    pub fn new(cast: Cast, fleet: Arc<Fleet>, recorder: Recorder, seen: Arc<Seen>) -> Self {
        let (done, lasting, revivals) = (Done::default(), Vec::new(), BTreeMap::new());
        Self { cast, done, fleet, recorder, seen, lasting, revivals, asked: JoinSet::new(), standing: Standing::Over }
    }

    /// Carries the schedule out, until its last fault is over or its pause is.
    pub async fn play(&mut self, schedule: &Schedule) {
        let began = Instant::now();
        let mut steps = schedule.steps.iter().peekable();
        if let Some(pause) = schedule.pause {
            self.standing = Standing::Due(pause, began + Duration::from_millis(pause.at_ms));
        }
        loop {
            while let Some(step) = steps.next_if(|step| began.elapsed() >= Duration::from_millis(step.at_ms)) {
                self.strike(step).await;
            }
            self.tend().await;
            let waits = match self.standing {
                Standing::Due(..) | Standing::Paused => true,
                Standing::Armed(_, _, give_up) => Instant::now() < give_up,
                Standing::Over => false,
            };
            if steps.peek().is_none() && self.lasting.is_empty() && !waits {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// What an init system and time do: what is over is healed, what ended is started again, and a process that comes to
    /// its pause point late is let go on from there.
    pub async fn tend(&mut self) {
        let standing = std::mem::replace(&mut self.standing, Standing::Over);
        self.standing = self.pause(standing).await;
        self.heal_due(Instant::now()).await;
        self.revive();
    }

    /// Undoes everything that still lasts.
    pub async fn heal_all(&mut self) {
        while !self.lasting.is_empty() {
            self.heal_due(Instant::now() + Duration::from_secs(3600)).await;
        }
        database::signal_all(&self.fleet, Signal::CONT);
        self.cast.heal_links();
        self.cast.thaw_all();
        self.asked.shutdown().await;
    }

    /// Starts again what ended by itself, after a moment.
    fn revive(&mut self) {
        let now = Instant::now();
        for (index, status) in self.cast.fallen() {
            let expected = |lasting: &Lasting| matches!(lasting.heal, Heal::StartMember(of, _) if of == index);
            if self.lasting.iter().any(expected) {
                continue;
            }
            match self.revivals.get(&index) {
                Some(due) if now >= *due => {
                    self.revivals.remove(&index);
                    // The one that has to come to a point tries again as it was; a migration that failed does not.
                    let armed = matches!(self.standing, Standing::Armed(_, Subject::Member(of), _) if of == index);
                    let life = if armed { self.cast.members[index].life.clone() } else { Life::default() };
                    self.cast.launch(&self.fleet, index, life);
                }
                Some(_) => {}
                None => {
                    *self.done.fallen.entry(status.to_string()).or_default() += 1;
                    self.revivals.insert(index, now + RESTART_AFTER);
                }
            }
        }
    }

    /// Tells the record of a fault, and counts it.
    pub fn note(&mut self, kind: Kind, target: &str) {
        *self.done.faults.entry(kind.as_str()).or_default() += 1;
        self.recorder.record(Event::Fault { kind: kind.as_str().to_owned(), target: target.to_owned() });
    }

    /// The member that is meant; a follower where nobody leads.
    fn member(&self, target: Target) -> usize {
        let leader = self.seen.leader();
        match (target, leader) {
            (Target::Leader | Target::Agent(_), Some(leader)) => leader,
            (Target::Leader | Target::Agent(_), None) => 0,
            (Target::Follower(number), leader) => {
                let others: Vec<usize> = (0..MEMBERS).filter(|index| Some(*index) != leader).collect();
                others[usize::try_from(number).unwrap_or(0) % others.len()]
            }
        }
    }

    fn agent(&self, target: Target) -> usize {
        let number = match target {
            Target::Agent(number) | Target::Follower(number) => usize::try_from(number).unwrap_or(0),
            Target::Leader => 0,
        };
        number % self.cast.agents.len().max(1)
    }

    fn lasts(&mut self, step: &Step, target: &str, heal: Heal) {
        let until = Instant::now() + Duration::from_millis(step.lasts_ms);
        self.lasting.push(Lasting { until, kind: Some(step.kind), target: target.to_owned(), heal });
    }

    async fn strike(&mut self, step: &Step) {
        match step.kind {
            Kind::KillMember | Kind::FreezeMember | Kind::RestartMember | Kind::HandOver | Kind::EndSessions => {
                self.strike_member(step).await;
            }
            Kind::RestartDatabase
            | Kind::CrashDatabase
            | Kind::KillDatabase
            | Kind::FreezeDatabase
            | Kind::LockLeaderRow
            | Kind::LockComputes => self.strike_database(step).await,
            Kind::KillAgent | Kind::FreezeAgent | Kind::FlapAgent | Kind::KillCompute => self.strike_agent(step).await,
            Kind::CandidatesAtOnce => self.candidates_at_once().await,
            Kind::FailingMigration | Kind::SlowMigration => self.migrate(step),
            Kind::DatabaseLinkCut
            | Kind::DatabaseLinkDelay
            | Kind::DatabaseLinkHalfOpen
            | Kind::MemberLinkCut
            | Kind::MemberLinkDelay
            | Kind::MemberLinkHalfOpen
            | Kind::MemberLinkMidBody
            | Kind::MemberReset
            | Kind::AgentLinkCut
            | Kind::AgentLinkDelay
            | Kind::AgentLinkHalfOpen
            | Kind::AgentLinkMidBody => self.strike_link(step),
            Kind::ClockAhead | Kind::ClockBack => self.strike_clock(step),
            // Done before the first step.
            Kind::FirstBootsAtOnce => {}
            Kind::CommitsLost => self.lose_commits(step).await,
        }
    }

    fn strike_link(&mut self, step: &Step) {
        let mode = links::mode(step.kind);
        let (link, name) = match step.kind {
            Kind::AgentLinkCut | Kind::AgentLinkDelay | Kind::AgentLinkHalfOpen | Kind::AgentLinkMidBody => {
                let index = self.agent(step.target);
                (Link::Agent(index), format!("what comes to agent {index}"))
            }
            Kind::DatabaseLinkCut | Kind::DatabaseLinkDelay | Kind::DatabaseLinkHalfOpen => {
                let index = self.member(step.target);
                (Link::Database(index), format!("{} to the database", self.cast.members[index].name))
            }
            _ => {
                let index = self.member(step.target);
                (Link::Member(index), format!("what comes to {} from members", self.cast.members[index].name))
            }
        };
        self.link(link).set(mode);
        self.note(step.kind, &name);
        self.lasts(step, &name, Heal::Pass(link));
    }

    fn link(&self, link: Link) -> &Proxy {
        match link {
            Link::Agent(index) => &self.cast.agent_links[index],
            Link::Member(index) => &self.cast.members[index].links.incoming,
            Link::Database(index) => &self.cast.members[index].links.database,
        }
    }

    fn strike_clock(&mut self, step: &Step) {
        let index = self.member(step.target);
        let member = &self.cast.members[index];
        // Where the library is missing there is a line that says so.
        let (name, Some(clock)) = (member.name, &member.links.clock) else { return };
        let seconds = i64::try_from(step.lasts_ms).unwrap_or(0) * 2;
        clock.jump(if step.kind == Kind::ClockAhead { seconds } else { -seconds });
        self.note(step.kind, name);
        self.lasts(step, name, Heal::Clock(index));
    }

    /// The database is copied, goes on for a while, and is put back to the copy.
    async fn lose_commits(&mut self, step: &Step) {
        let since_us = self.recorder.now_us();
        let copy = database::copy(&self.fleet).await;
        let until = Instant::now() + Duration::from_millis(step.lasts_ms);
        self.lasting.push(Lasting { until, kind: None, target: String::new(), heal: Heal::PutBack(copy, since_us) });
    }

    async fn strike_member(&mut self, step: &Step) {
        let index = self.member(step.target);
        let name = self.cast.members[index].name;
        let Some(process) = &self.cast.members[index].process else { return };
        match step.kind {
            Kind::KillMember => {
                process.signal(Signal::KILL);
                self.note(step.kind, name);
                self.lasts(step, name, Heal::StartMember(index, Life::default()));
            }
            Kind::FreezeMember => {
                process.signal(Signal::STOP);
                self.note(step.kind, name);
                self.lasts(step, name, Heal::ThawMember(index));
            }
            Kind::RestartMember => {
                process.terminate();
                self.note(step.kind, name);
                let life = Life { as_candidate: true, ..Life::default() };
                self.lasts(step, name, Heal::StartMember(index, life));
            }
            Kind::EndSessions => {
                if let Some(status) = self.seen.member(index) {
                    database::end_sessions(&self.fleet, status.instance_id).await;
                    self.note(step.kind, name);
                }
            }
            _ => {
                self.note(step.kind, name);
                self.take_over((index + 1) % MEMBERS);
            }
        }
    }

    /// An operator's request, whose answer nobody waits for.
    fn take_over(&mut self, index: usize) {
        let url = format!("{}/control/v1/take_over", self.cast.members[index].url);
        let token = self.fleet.keys().scope(Scope::Admin);
        let call = Call::new("POST", url).token(&token).header("content-type", "application/json").body("{}");
        self.asked.spawn(async move { drop(call.limit(Duration::from_secs(5)).try_send().await) });
    }

    async fn strike_database(&mut self, step: &Step) {
        let cluster = self.fleet.cluster();
        // What is down already cannot be struck.
        if cluster.server_pid().is_none() {
            return;
        }
        let target = "the controllers' database";
        let heal = match step.kind {
            Kind::FreezeDatabase => {
                database::signal_all(&self.fleet, Signal::STOP);
                Heal::ThawDatabase
            }
            Kind::LockLeaderRow | Kind::LockComputes => {
                let what = if step.kind == Kind::LockComputes {
                    "LOCK TABLE computes IN SHARE ROW EXCLUSIVE MODE"
                } else {
                    "SELECT term FROM leader FOR UPDATE"
                };
                // Where the database is away there is nothing to hold.
                let Some(held) = database::hold(&self.fleet, what).await else { return };
                Heal::Release(held)
            }
            kind => {
                database::signal_all(&self.fleet, Signal::CONT);
                let ended = match kind {
                    Kind::RestartDatabase => cluster.stop(StopMode::Fast).await,
                    Kind::CrashDatabase => cluster.stop(StopMode::Immediate).await,
                    _ => cluster.kill().await,
                };
                ended.unwrap_or_else(|error| panic!("{error}"));
                Heal::StartDatabase
            }
        };
        self.note(step.kind, target);
        self.lasts(step, target, heal);
    }

    async fn strike_agent(&mut self, step: &Step) {
        let index = self.agent(step.target);
        let Some(agent) = &self.cast.agents[index] else { return };
        let name = agent.process.name().to_owned();
        match step.kind {
            Kind::KillAgent => {
                agent.process.kill().await;
                self.note(step.kind, &name);
                self.lasts(step, &name, Heal::StartAgent(index));
            }
            Kind::FreezeAgent => {
                agent.process.signal(Signal::STOP);
                self.note(step.kind, &name);
                self.lasts(step, &name, Heal::ThawAgent(index));
            }
            Kind::KillCompute => {
                if let Some(pid) = agent.postmaster_pid().and_then(Pid::from_raw) {
                    // It may have ended since it wrote its file.
                    let _ = kill_process(pid, Signal::KILL);
                    self.note(step.kind, &name);
                }
            }
            _ => {
                self.note(step.kind, &name);
                for _ in 0..2 {
                    self.restart_agent(index).await;
                }
            }
        }
    }

    /// The followers end and come back at once as members that ask to lead, and one more with them.
    async fn candidates_at_once(&mut self) {
        let leader = self.member(Target::Leader);
        self.note(Kind::CandidatesAtOnce, "all who do not lead, and one more");
        let others: Vec<usize> = (0..=MEMBERS).filter(|index| *index != leader).collect();
        for index in &others {
            if let Some(process) = &self.cast.members[*index].process {
                process.kill().await;
            }
        }
        for index in others {
            self.cast.launch(&self.fleet, index, Life { as_candidate: true, ..Life::default() });
        }
    }

    /// A follower comes back as a member that asks to lead and has a migration with it. A slow one is frozen in it.
    fn migrate(&mut self, step: &Step) {
        let index = self.member(Target::Follower(step.lasts_ms));
        let name = self.cast.members[index].name;
        // Both go well in the rehearsal, which has no rows.
        let up = if step.kind == Kind::FailingMigration {
            "CREATE TABLE half (x int); SELECT 1 / (length(compute_id) - length(compute_id)) FROM computes;"
        } else {
            "CREATE TABLE IF NOT EXISTS probe (x int); SELECT pg_sleep(2) FROM computes LIMIT 1;"
        };
        let migrations = Some(self.migration(step.kind.as_str(), up));
        self.cast.launch(&self.fleet, index, Life { as_candidate: true, migrations, ..Life::default() });
        if step.kind == Kind::SlowMigration {
            let heal = Heal::FreezeInMigration(index, step.lasts_ms, Instant::now() + PAUSE_PATIENCE);
            self.lasting.push(Lasting { until: Instant::now(), kind: None, target: name.to_owned(), heal });
        } else {
            self.note(step.kind, name);
        }
    }

    /// A directory with one migration.
    fn migration(&self, name: &str, up: &str) -> String {
        let root = self.fleet.dir().join(name);
        let dir = root.join(format!("20990101000000_{name}"));
        let written = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join("up.sql"), up))
            .and_then(|()| std::fs::write(dir.join("down.sql"), "SELECT 1;"));
        written.unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        root.display().to_string()
    }

    async fn pause(&mut self, standing: Standing) -> Standing {
        match standing {
            Standing::Due(pause, due) if Instant::now() >= due => {
                let subject = self.arm(&pause).await;
                Standing::Armed(pause, subject, Instant::now() + PAUSE_PATIENCE)
            }
            Standing::Armed(pause, subject, give_up) => match self.stands(&pause, subject) {
                true if Instant::now() < give_up => self.at_the_point(&pause, subject),
                // The other faults are over: it is only let go on.
                true => self.at_the_point(&Pause { then: Then::GoOn, lasts_ms: 100, ..pause }, subject),
                false => Standing::Armed(pause, subject, give_up),
            },
            Standing::Paused if !self.lasting.iter().any(|one| matches!(one.heal, Heal::GoOn)) => Standing::Over,
            standing @ (Standing::Due(..) | Standing::Paused | Standing::Over) => standing,
        }
    }

    /// Starts the process whose point is armed.
    async fn arm(&mut self, pause: &Pause) -> Subject {
        let point = armed(pause);
        if pause.point.starts_with("agent_") {
            self.cast.restart_agent(&self.fleet, 0, Some(&point)).await;
            return Subject::Agent(0);
        }
        let index = self.member(Target::Follower(pause.lasts_ms));
        let migrations = (pause.point == "mid_migration")
            .then(|| self.migration("pause", "CREATE TABLE IF NOT EXISTS probe (x int);"));
        let life = Life { as_candidate: true, pause_at: Some(point), migrations };
        self.cast.launch(&self.fleet, index, life);
        Subject::Member(index)
    }

    fn process(&self, subject: Subject) -> Option<&pgfleet_harness::process::Process> {
        match subject {
            Subject::Member(index) => self.cast.members[index].process.as_ref(),
            Subject::Agent(index) => self.cast.agents[index].as_ref().map(|agent| &agent.process),
        }
    }

    fn stands(&self, pause: &Pause, subject: Subject) -> bool {
        let Some(process) = self.process(subject) else { return false };
        process.said(&format!("pgfleet: paused at {} pid {}", pause.point, process.pid()))
    }

    fn at_the_point(&mut self, pause: &Pause, subject: Subject) -> Standing {
        let Some(process) = self.process(subject) else { return Standing::Over };
        let target = process.name().to_owned();
        match pause.then {
            Then::GoOn => {}
            Then::Freeze => process.signal(Signal::STOP),
            Then::Kill => process.signal(Signal::KILL),
        }
        self.recorder.record(Event::PausePoint { name: pause.point.to_owned(), target: target.clone() });
        *self.done.pauses.entry(pause.point).or_default() += 1;
        let until = Instant::now() + Duration::from_millis(pause.lasts_ms);
        let (kind, heal) = match (pause.then, subject) {
            (Then::Kill, Subject::Member(index)) => (Kind::KillMember, Heal::StartMember(index, Life::default())),
            (Then::Kill, Subject::Agent(index)) => (Kind::KillAgent, Heal::StartAgent(index)),
            (Then::GoOn | Then::Freeze, Subject::Member(_)) => (Kind::FreezeMember, Heal::GoOn),
            (Then::GoOn | Then::Freeze, Subject::Agent(_)) => (Kind::FreezeAgent, Heal::GoOn),
        };
        let kind = (pause.then != Then::GoOn).then_some(kind);
        if let Some(kind) = kind {
            self.note(kind, &target);
        }
        self.lasting.push(Lasting { until, kind, target, heal });
        Standing::Paused
    }

    async fn heal_due(&mut self, now: Instant) {
        let (due, rest) = std::mem::take(&mut self.lasting).into_iter().partition(|one| one.until <= now);
        self.lasting = rest;
        for one in due {
            self.heal(one.heal).await;
            if let Some(kind) = one.kind {
                self.recorder.record(Event::FaultEnded { kind: kind.as_str().to_owned(), target: one.target });
            }
        }
    }

    async fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Pass(link) => self.link(link).set(Mode::Pass),
            Heal::Clock(index) => {
                if let Some(clock) = &self.cast.members[index].links.clock {
                    clock.jump(0);
                }
            }
            Heal::PutBack(copy, since_us) => {
                database::put_back(&self.fleet, &copy).await;
                self.recorder.record(Event::CommitsLost { since_us });
                self.note(Kind::CommitsLost, "the controllers' database");
            }
            Heal::StartMember(index, life) => {
                self.revivals.remove(&index);
                self.cast.launch(&self.fleet, index, life);
            }
            Heal::ThawMember(index) => {
                if let Some(process) = &self.cast.members[index].process {
                    process.thaw();
                }
            }
            Heal::FreezeInMigration(index, lasts_ms, give_up) => {
                self.freeze_in_migration(index, lasts_ms, give_up).await;
            }
            // Another fault may have started it meanwhile.
            Heal::StartDatabase if self.fleet.cluster().server_pid().is_some() => {}
            Heal::StartDatabase => {
                let started = self.fleet.cluster().start_again().await;
                started.unwrap_or_else(|error| panic!("{error}"));
            }
            Heal::ThawDatabase => database::signal_all(&self.fleet, Signal::CONT),
            Heal::Release(held) => drop(held),
            Heal::StartAgent(index) => self.restart_agent(index).await,
            Heal::ThawAgent(index) => {
                if let Some(agent) = &self.cast.agents[index] {
                    agent.process.thaw();
                }
            }
            Heal::GoOn => {
                for member in &self.cast.members {
                    let Some(process) = &member.process else { continue };
                    go_on(process);
                }
                for agent in self.cast.agents.iter().flatten() {
                    go_on(&agent.process);
                }
            }
        }
    }

    async fn freeze_in_migration(&mut self, index: usize, lasts_ms: u64, give_up: Instant) {
        let migrates = database::migration_sleeps(&self.fleet).await;
        let member = &self.cast.members[index];
        let (name, Some(process)) = (member.name, &member.process) else { return };
        let target = name.to_owned();
        if migrates {
            process.signal(Signal::STOP);
            self.note(Kind::SlowMigration, name);
            let (until, heal) = (Instant::now() + Duration::from_millis(lasts_ms), Heal::ThawMember(index));
            self.lasting.push(Lasting { until, kind: Some(Kind::SlowMigration), target, heal });
        } else if Instant::now() < give_up {
            let heal = Heal::FreezeInMigration(index, lasts_ms, give_up);
            self.lasting.push(Lasting { until: Instant::now() + TICK, kind: None, target, heal });
        }
    }

    /// The point at which an agent has to stand still, also in a later life.
    fn agent_pause(&self, index: usize) -> Option<String> {
        match &self.standing {
            Standing::Armed(pause, Subject::Agent(of), _) if *of == index => Some(armed(pause)),
            Standing::Armed(..) | Standing::Due(..) | Standing::Paused | Standing::Over => None,
        }
    }

    async fn restart_agent(&mut self, index: usize) {
        let point = self.agent_pause(index);
        self.cast.restart_agent(&self.fleet, index, point.as_deref()).await;
    }

    /// Whether one member leads and all others that run follow it.
    pub fn is_settled(&self) -> bool {
        let running = (0..self.cast.members.len()).filter(|index| self.cast.members[*index].process.is_some());
        let shown: Option<Vec<_>> = running.map(|index| self.seen.member(index)).collect();
        let Some(shown) = shown else { return false };
        let mut leaders = shown.iter().filter(|status| status.role == Role::Leader);
        let (Some(leader), None) = (leaders.next(), leaders.next()) else { return false };
        shown.iter().all(|status| {
            let follows = status.leader.as_ref().is_some_and(|known| known.instance_id == leader.instance_id);
            status.instance_id == leader.instance_id || (status.role == Role::Candidate && follows)
        })
    }
}

/// As the programs want it.
fn armed(pause: &Pause) -> String {
    format!("{}@{}", pause.point, pause.nth)
}

/// Out of a pause point, and out of a freeze.
fn go_on(process: &pgfleet_harness::process::Process) {
    // Who stands at no point would end by this signal.
    if is_paused(process) {
        process.go_on();
    }
    process.thaw();
}

fn is_paused(process: &pgfleet_harness::process::Process) -> bool {
    let mine = format!("pid {}", process.pid());
    let log = process.log();
    let last = log.lines().rev().find(|line| line.starts_with("pgfleet: ") && line.ends_with(&mine));
    last.is_some_and(|line| line.starts_with("pgfleet: paused at "))
}
