//! Carries a schedule out: strikes when a step is due, heals when it is over, starts again what ended.
//!
//! Who calls it: [`crate::run`]. One task owns all processes of a run and does one thing after the other; faults overlap
//! because they last, not because two tasks inject. Invariant: whatever it struck is on the list of what has to be healed
//! until it is, so [`Engine::heal_all`] leaves a world that can converge.

mod pause;
mod strike;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::controller::Role;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::TestClient;
use pgfleet_history::Event;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::pause::{Standing, Subject, go_on};
use self::strike::Link;
use crate::cast::{Cast, Life};
use crate::database;
use crate::faults::proxy::Mode;
use crate::recorder::Recorder;
use crate::schedule::{Kind, Schedule, Step};
use crate::watchers::Seen;

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
    /// The database is put back to its copy, which was taken then.
    PutBack(u64),
}

/// A fault that lasts.
struct Lasting {
    until: Instant,
    /// None for what is no fault of its own.
    kind: Option<Kind>,
    target: String,
    heal: Heal,
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

    fn lasts(&mut self, step: &Step, target: &str, heal: Heal) {
        let until = Instant::now() + Duration::from_millis(step.lasts_ms);
        self.lasting.push(Lasting { until, kind: Some(step.kind), target: target.to_owned(), heal });
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
            Heal::PutBack(since_us) => {
                database::put_back(&self.fleet).await;
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
