//! A process that stands still at a named point: armed, met there, struck there, let go on.

use std::time::Duration;

use pgfleet_harness::process::Process;
use pgfleet_history::Event;
use rustix::process::Signal;
use tokio::time::Instant;

use super::{Engine, Heal, Lasting, PAUSE_PATIENCE};
use crate::cast::Life;
use crate::schedule::{Kind, Pause, Target, Then};

/// Where the pause of a run stands.
pub(super) enum Standing {
    /// It is not due yet.
    Due(Pause, Instant),
    /// The process with the armed point runs: a member or an agent.
    Armed(Pause, Subject, Instant),
    /// It stands there.
    Paused,
    /// Nothing to wait for.
    Over,
}

/// Who stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Member(usize),
    Agent(usize),
}

impl Engine {
    pub(super) async fn pause(&mut self, standing: Standing) -> Standing {
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

    fn process(&self, subject: Subject) -> Option<&Process> {
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

    /// The point at which an agent has to stand still, also in a later life.
    fn agent_pause(&self, index: usize) -> Option<String> {
        match &self.standing {
            Standing::Armed(pause, Subject::Agent(of), _) if *of == index => Some(armed(pause)),
            Standing::Armed(..) | Standing::Due(..) | Standing::Paused | Standing::Over => None,
        }
    }

    pub(super) async fn restart_agent(&mut self, index: usize) {
        let point = self.agent_pause(index);
        self.cast.restart_agent(&self.fleet, index, point.as_deref()).await;
    }
}

/// As the programs want it.
fn armed(pause: &Pause) -> String {
    format!("{}@{}", pause.point, pause.nth)
}

/// Out of a pause point, and out of a freeze.
pub(super) fn go_on(process: &Process) {
    // Who stands at no point would end by this signal.
    if is_paused(process) {
        process.go_on();
    }
    process.thaw();
}

fn is_paused(process: &Process) -> bool {
    let mine = format!("pid {}", process.pid());
    let log = process.log();
    let last = log.lines().rev().find(|line| line.starts_with("pgfleet: ") && line.ends_with(&mine));
    last.is_some_and(|line| line.starts_with("pgfleet: paused at "))
}
