//! What a member answers: its status, requests to step down, writes (executed, forwarded or held). Mirrors the doors and
//! `leadership::room::asked_to_step_down`.

use pgfleet_api::controller::{ControllerStatus, Role};
use pgfleet_domain::leadership::{Event, Phase, Reply as StatusReply};

use crate::Us;
use crate::database::Put;
use crate::member::{Call, Stage, StepDown};
use crate::net::{Back, PutEnd, Reply, Request};
use crate::world::{self, World, member_at};

/// Between two tries of a write that is held.
const HOLD_PAUSE: Us = 100_000;
/// How long a member waits for the one it forwarded to.
const FORWARD_TIMEOUT: Us = 3_000_000;

impl World {
    /// A request reached the host of a member.
    pub(crate) fn served(&mut self, member: usize, request: Request, back: Option<Back>) {
        let m = &self.members[member];
        if !m.alive {
            if !m.silent {
                self.reply(member, back, Reply::Refused);
            }
            return;
        }
        match request {
            Request::Status => {
                let status = self.status(member);
                self.reply(member, back, Reply::Status(StatusReply::Status(status)));
            }
            Request::StepDown(asked) => self.asked_to_step_down(member, &asked, back),
            Request::Put(put) => self.put(member, put, back),
            Request::Heard(leader) => self.step(member, Event::Heard(leader)),
            Request::Sql(..) | Request::Probe | Request::Push(_) => {}
        }
    }

    fn status(&self, member: usize) -> ControllerStatus {
        let m = &self.members[member];
        let (term, successor) = match &m.state.phase {
            Phase::TakingOver { term, .. }
            | Phase::Leader { term, .. }
            | Phase::Suspended { term, .. }
            | Phase::SteppingDown { term, .. } => (Some(*term), None),
            Phase::SteppedDown { term, successor, .. } => (Some(*term), successor.clone()),
            Phase::Candidate(_) | Phase::Gone => (None, None),
        };
        let role = m.state.role();
        let hold = u64::try_from(m.state.config.hold.as_millis()).unwrap_or(0);
        ControllerStatus {
            role,
            instance_id: m.instance(),
            address: m.state.config.address.clone(),
            version: String::new(),
            term,
            leader: m.state.leader(),
            successor,
            hold_ms: (role == Role::SteppedDown).then_some(hold),
        }
    }

    pub(crate) fn asked_to_step_down(&mut self, member: usize, asked: &StepDown, back: Option<Back>) {
        let now = std::time::Duration::from_micros(self.members[member].clock(self.now));
        let m = &mut self.members[member];
        let own = match &m.state.phase {
            Phase::TakingOver { term, .. }
            | Phase::Leader { term, .. }
            | Phase::Suspended { term, .. }
            | Phase::SteppingDown { term, .. }
            | Phase::SteppedDown { term, .. } => Some(*term),
            Phase::Candidate(_) | Phase::Gone => None,
        };
        let meant = asked.leader.is_none_or(|(instance, term)| instance == m.instance() && Some(term) == own);
        match &m.state.phase {
            Phase::SteppedDown { .. } if meant && m.answered => self.reply(member, back, Reply::SteppedDown),
            Phase::SteppingDown { .. } if meant => m.waiting.push(back),
            Phase::Leader { .. } | Phase::TakingOver { .. } | Phase::Suspended { .. } if meant => {
                let target = asked.target.map(|target| target.to_string());
                if target.is_some() && m.state.refuses(target.as_deref(), asked.force, now) {
                    return self.reply(member, back, Reply::MigrationFailedBefore);
                }
                m.waiting.push(back);
                self.step(member, Event::StepDownAsked { successor: asked.candidate.clone() });
            }
            _ => self.reply(member, back, Reply::NotThatLeader),
        }
    }

    /// A write: from a client (then it is held and forwarded), or by a hop (then it is executed here or not at all).
    pub(crate) fn put(&mut self, member: usize, put: Put, back: Option<Back>) {
        let gate = self.gate(member);
        let m = &mut self.members[member];
        let leads = matches!(m.state.phase, Phase::Leader { .. });
        let running = m.work.as_mut().filter(|work| leads && gate && work.stage == Stage::Running);
        if let Some(work) = running {
            work.queue.push((put, back));
            return self.pump_writer(member);
        }
        if back.is_some() {
            return self.reply(member, back, Reply::Put(PutEnd::NotExecuted));
        }
        let leader = m.state.leader().filter(|_| matches!(m.state.phase, Phase::Candidate(_)));
        match leader.and_then(|leader| member_at(&leader.address)).filter(|to| *to != member) {
            Some(to) => drop(self.call(member, to, Call::Forward { put }, Request::Put(put), FORWARD_TIMEOUT)),
            None => self.hold(member, put),
        }
    }

    /// Not executed: tried again for as long as a request is held.
    pub(crate) fn hold(&mut self, member: usize, put: Put) {
        if self.now >= put.deadline {
            return self.put_ended(put, PutEnd::NotExecuted, None, member);
        }
        let life = self.members[member].life;
        self.at(self.now + HOLD_PAUSE, world::Event::Again { member, life, put });
    }

    pub(crate) fn forwarded(&mut self, member: usize, put: Put, reply: &Reply) {
        match reply {
            Reply::Put(PutEnd::Acknowledged) => self.put_ended(put, PutEnd::Acknowledged, None, member),
            Reply::Put(PutEnd::NotExecuted) | Reply::Refused => self.hold(member, put),
            _ => self.put_ended(put, PutEnd::Unknown, None, member),
        }
    }

    /// Tells whoever waits for a write, next door or here; a client goes on with its next one.
    pub(crate) fn put_ended(&mut self, put: Put, end: PutEnd, back: Option<Back>, member: usize) {
        match (back, end) {
            (Some(_), _) => self.reply(member, back, Reply::Put(end)),
            (None, PutEnd::NotExecuted) if self.now < put.deadline => self.hold(member, put),
            (None, _) => {
                let at = self.now + self.dice.within(1000, self.lease / 10);
                self.at(at, world::Event::ClientNext { client: put.client, last: put.id });
            }
        }
    }

    /// Whether a member may act for its term.
    pub(crate) fn gate(&self, member: usize) -> bool {
        self.members[member].proved(self.now) || self.options.mutation == Some(crate::Mutation::GateOff)
    }
}
