//! Links and calls: what is sent may be lost, late, doubled or overtaken; an answer may be lost like any message.

use pgfleet_api::compute::Observed;
use pgfleet_api::controller::LeaderRef;
use pgfleet_api::{Fence, InstanceId};
use pgfleet_domain::leadership::Reply as StatusReply;

use crate::Us;
use crate::database::{Answer, Outcome, Put, Session, Statement};
use crate::member::{Call, StepDown};
use crate::world::{Event, World};

/// Whom an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    pub(crate) member: usize,
    pub(crate) life: u64,
    pub(crate) call: u64,
}

/// What reaches a node.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Sql(Session, Statement),
    Status,
    StepDown(StepDown),
    Put(Put),
    Heard(LeaderRef),
    Probe,
    Push(Fence),
}

/// How a write ended that was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutEnd {
    Acknowledged,
    NotExecuted,
    Unknown,
}

/// What comes back.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Sql(Answer),
    Status(StatusReply),
    SteppedDown,
    NotThatLeader,
    MigrationFailedBefore,
    Observed(Box<Observed>),
    /// The agent refuses the push.
    Stale,
    Put(PutEnd),
    Refused,
    Timeout,
}

impl World {
    /// The node of a member is its number; the database comes next, then the agents.
    pub(crate) fn database_node(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn agent_node(&self, agent: usize) -> usize {
        self.members.len() + 1 + agent
    }

    fn cut(&self, a: usize, b: usize) -> bool {
        self.cuts.iter().any(|&(x, y, until)| self.now < until && ((x, y) == (a, b) || (x, y) == (b, a)))
    }

    /// When what leaves `a` now arrives at `b`; none if it is lost.
    fn travel(&mut self, a: usize, b: usize) -> Option<Us> {
        if self.cut(a, b) || self.dice.chance(self.loss) {
            return None;
        }
        let late = if self.dice.chance(self.late) { self.dice.within(0, self.lease * 3 / 2) } else { 0 };
        Some(self.now + self.dice.within(100, 2000) + late)
    }

    /// Sends a request of a member and remembers what for; a time-out answers if nobody else does.
    pub(crate) fn call(&mut self, member: usize, to: usize, call: Call, request: Request, limit: Us) -> u64 {
        let id = self.number();
        let m = &mut self.members[member];
        let (life, deadline) = (m.life, m.after(self.now, limit));
        m.calls.insert(id, call);
        let back = Back { member, life, call: id };
        self.at(deadline, Event::Reply { back, reply: Reply::Timeout });
        // Requests are sent again by whoever did not hear, so an agent or a peer may see one twice.
        if !matches!(request, Request::Sql(..) | Request::Put(_))
            && self.dice.chance(self.twice)
            && let Some(at) = self.travel(member, to)
        {
            self.at(at, Event::Arrive { node: to, request: request.clone(), back: None });
        }
        if let Some(at) = self.travel(member, to) {
            self.at(at, Event::Arrive { node: to, request, back: Some(back) });
        }
        id
    }

    pub(crate) fn sql(&mut self, member: usize, session: u64, call: Call, statement: Statement, limit: Us) -> u64 {
        let session = Session { id: session, instance: self.members[member].instance() };
        let to = self.database_node();
        self.call(member, to, call, Request::Sql(session, statement), limit)
    }

    pub(crate) fn reply(&mut self, from: usize, back: Option<Back>, reply: Reply) {
        if let Some(back) = back
            && let Some(at) = self.travel(from, back.member)
        {
            self.at(at, Event::Reply { back, reply });
        }
    }

    /// A statement reached the database.
    pub(crate) fn database(&mut self, session: Session, statement: Statement, back: Option<Back>) {
        let before = self.db.data.row.clone();
        match self.db.run(session, &statement) {
            Outcome::Waits => {
                let wait = self.number();
                self.waits.push((wait, session, statement, back));
                self.at(self.now + self.lease / 5, Event::LockTimeout(wait));
            }
            Outcome::Answer(answer) => {
                self.watch_database(before.as_ref(), session, &statement, &answer);
                let node = self.database_node();
                if let (Answer::Began(tx), Statement::Begin { migrates: false, .. }) = (&answer, &statement) {
                    let tx = *tx;
                    self.at(self.now + self.lease / 4, Event::Idle(tx));
                }
                self.reply(node, back, Reply::Sql(answer));
                self.try_waiting();
            }
        }
    }

    /// What the oracle sees of a statement, and whom it tells.
    fn watch_database(
        &mut self,
        before: Option<&crate::database::RowRecord>,
        session: Session,
        statement: &Statement,
        answer: &Answer,
    ) {
        match (statement, answer) {
            (Statement::Claim { claim, sent_at, .. }, Answer::Claimed(Some(term))) => {
                if let Some(row) = self.db.data.row.clone() {
                    let watched = claim.seen.and_then(|seen| seen.renewals);
                    self.oracle.claimed(before, &row, watched, *sent_at);
                }
                self.terms += 1;
                self.notify(*term);
            }
            (Statement::Renew { term, sent_at }, Answer::Done(true)) => {
                self.oracle.renewed(session.instance, *term, *sent_at);
            }
            (Statement::Release { term, .. }, Answer::Done(true)) => self.notify(*term),
            (Statement::Commit { term, .. }, Answer::Committed(written)) => {
                self.oracle.wrote(self.db.data.row.as_ref(), *term, session.instance, written);
            }
            _ => {}
        }
    }

    /// NOTIFY: whoever listens hears of a claim or release.
    fn notify(&mut self, term: pgfleet_api::Term) {
        let from = self.database_node();
        for member in 0..self.members.len() {
            if let Some(at) = self.travel(from, member) {
                let life = self.members[member].life;
                self.at(at, Event::Notice { member, life, term: Some(term) });
            }
        }
    }

    /// Claims that waited for a fence look again.
    pub(crate) fn try_waiting(&mut self) {
        if self.waits.is_empty() || !self.db.open.is_empty() {
            return;
        }
        for (_, session, statement, back) in std::mem::take(&mut self.waits) {
            self.database(session, statement, back);
        }
    }

    /// A process is gone: its followers see the end of their streams, its sessions end a little later.
    pub(crate) fn streams_end(&mut self, member: usize, instance: InstanceId, host: bool) {
        if host {
            // Keep-alives of the server end them, below the lease.
            let at = self.now + self.dice.within(self.lease / 4, self.lease * 4 / 5);
            return self.at(at, Event::SessionsEnd(instance));
        }
        for other in 0..self.members.len() {
            if other != member
                && let Some(at) = self.travel(member, other)
            {
                let life = self.members[other].life;
                self.at(at, Event::Notice { member: other, life, term: None });
            }
        }
        let at = self.now + self.dice.within(500, 250_000);
        self.at(at, Event::SessionsEnd(instance));
    }
}
