//! How a fault is carried out, and how everything heals.

use pgfleet_domain::leadership::Event as Decision;

use crate::fault::Kind;
use crate::member::StepDown;
use crate::world::{Event, World};

impl World {
    /// Carries a fault out. One that finds nothing to harm is not counted.
    pub(crate) fn inject(&mut self, kind: Kind) {
        let done = match kind {
            Kind::Crash { member, down, asks, host } => self.crash(member, down, asks, host),
            Kind::Pause { member, span } => {
                let m = &mut self.members[member];
                m.paused_until = m.paused_until.max(self.now + span);
                m.alive
            }
            Kind::Terminate { member, down, asks } => self.terminate(member, down, asks),
            Kind::Cut { a, b, span } => {
                self.cuts.push((a, b, self.now + span));
                a != b
            }
            Kind::DatabaseDown { span } => self.database_down(span, false),
            Kind::LostCommits { span } => self.database_down(span, true),
            Kind::BreakSessions { member } => {
                let instance = self.members[member].instance();
                self.db.end_sessions(instance);
                self.try_waiting();
                true
            }
            Kind::TakeOver { member, force } => self.take_over_asked(member, force),
            Kind::StepDown { member } => {
                let m = &self.members[member];
                let listens = m.alive && m.paused_until <= self.now;
                if listens {
                    let asked = StepDown { leader: None, candidate: None, target: None, force: false };
                    self.asked_to_step_down(member, &asked, None);
                }
                listens
            }
            Kind::AgentCrash { agent, down } => {
                let up = self.agents[agent].up;
                self.agents[agent].crash();
                self.inboxes[agent].clear();
                self.at(self.now + down, Event::StartAgent(agent));
                up
            }
        };
        if done {
            *self.counts.entry(kind.name()).or_default() += 1;
        }
    }

    fn crash(&mut self, member: usize, down: u64, asks: bool, host: bool) -> bool {
        if !self.members[member].alive {
            return false;
        }
        let instance = self.members[member].instance();
        self.gone(member);
        self.members[member].silent = host;
        self.members[member].asks = asks;
        self.streams_end(member, instance, host);
        self.at(self.now + down, Event::Start { member });
        true
    }

    fn terminate(&mut self, member: usize, down: u64, asks: bool) -> bool {
        let m = &mut self.members[member];
        if !m.alive || m.paused_until > self.now || m.exiting {
            return false;
        }
        m.asks = asks;
        self.step(member, Decision::Terminate);
        // Whatever its exit planned: a start that finds it alive does nothing.
        self.at(self.now + down, Event::Start { member });
        true
    }

    fn take_over_asked(&mut self, member: usize, force: bool) -> bool {
        let m = &self.members[member];
        if !m.alive || m.paused_until > self.now || m.exiting {
            return false;
        }
        let until = std::time::Duration::from_micros(m.clock(self.now) + self.lease * 8 / 5);
        self.step(member, Decision::TakeOverAsked { force, until });
        true
    }

    fn database_down(&mut self, span: u64, loses: bool) -> bool {
        self.db.up = false;
        self.db.end_all();
        self.waits.clear();
        self.loses |= loses;
        self.down_until = self.down_until.max(self.now + span);
        self.at(self.down_until, Event::DatabaseUp);
        true
    }

    /// The database answers again, with what it still has.
    pub(crate) fn database_up(&mut self) {
        if self.db.up || self.now < self.down_until {
            return;
        }
        if std::mem::take(&mut self.loses) {
            self.db.data = self.snapshot.clone();
            self.oracle.lost(&self.db.data);
            self.lost = true;
        }
        self.db.up = true;
    }

    /// What a failover of the database may fall back to.
    pub(crate) fn take_snapshot(&mut self) {
        if self.db.up {
            self.snapshot = self.db.data.clone();
        }
        if !self.healed {
            let age = self.dice.within(self.lease / 10, self.lease * 2);
            self.at(self.now + age, Event::Snapshot);
        }
    }

    /// Faults end: what is down comes back, but for members that never do; links carry everything.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        (self.loss, self.late, self.twice) = (0, 0, 0);
        self.cuts.clear();
        self.down_until = self.now;
        self.database_up();
        for member in 0..self.members.len() {
            self.members[member].paused_until = self.now;
            if self.members[member].stays_down {
                self.crash(member, 0, false, false);
                // Its kernel refuses, or its host stays silent.
                self.members[member].silent |= self.dice.chance(300);
            } else {
                self.at(self.now, Event::Start { member });
            }
        }
        for agent in 0..self.agents.len() {
            self.at(self.now, Event::StartAgent(agent));
        }
    }
}
