//! The driver of a member: mirrors `storage_controller::leadership::room`. It decides, and carries out what comes of it.

use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_api::controller::{Candidate, Role};
use pgfleet_domain::leadership::{
    Action, AskEnd, ClaimEnd, Ending, Event, PastTerm, Phase, Reply as StatusReply, Waiting, decide, failed_targets,
    judge,
};

use crate::Us;
use crate::database::{Answer, Past, Statement};
use crate::member::{Ask, Call, Doing, LeaseTask, Order, Stage, StepDown, Work};
use crate::net::{Reply, Request};
use crate::world::{self, World, member_at};

/// How long a peer gets to answer for its status.
const STATUS_TIMEOUT: Us = 200_000;
/// Between two tries of a step-down that was not answered.
const ASK_PAUSE: Us = 50_000;

impl World {
    /// A process starts, as a new instance with a memory of nothing.
    pub(crate) fn start(&mut self, member: usize) {
        if self.members[member].alive || (self.healed && self.members[member].stays_down) {
            return;
        }
        let asks = std::mem::take(&mut self.members[member].asks);
        let config = self.config(member, asks);
        let (session, work_session) = (self.number(), self.number());
        let m = &mut self.members[member];
        m.life += 1;
        m.alive = true;
        m.silent = false;
        m.paused_until = 0;
        m.state = pgfleet_domain::leadership::State::new(config);
        m.lease = LeaseTask { session, ..LeaseTask::default() };
        m.work = None;
        m.work_session = work_session;
        m.calls.clear();
        m.waiting.clear();
        m.answered = false;
        m.ended_term = None;
        m.migration_failed = false;
        m.exiting = false;
        let life = m.life;
        self.at(self.now, world::Event::Tick { member, life });
    }

    /// A process ends. A supervisor starts it again.
    pub(crate) fn exit(&mut self, member: usize) {
        let instance = self.members[member].instance();
        self.gone(member);
        self.streams_end(member, instance, false);
        let pause = self.dice.within(self.lease / 20, self.lease);
        self.at(self.now + pause, world::Event::Start { member });
    }

    /// Whatever it had is gone.
    pub(crate) fn gone(&mut self, member: usize) {
        let m = &mut self.members[member];
        m.alive = false;
        m.life += 1;
        m.work = None;
        m.calls.clear();
    }

    /// Decides, and only then acts.
    pub(crate) fn step(&mut self, member: usize, event: Event) {
        if !self.members[member].alive {
            return;
        }
        let now = Duration::from_micros(self.members[member].clock(self.now));
        let tick = event == Event::Tick;
        let told = (self.options.trace && !tick).then(|| format!("{event:?}"));
        let was = self.members[member].state.role();
        let (next, actions) = decide(&self.members[member].state, event, now);
        let is = next.role();
        self.members[member].state = next;
        if !tick || !actions.is_empty() || was != is {
            self.note(|| format!("    member {member}: {told:?} -> {is:?} {actions:?}"));
        }
        if was != is {
            self.role_changed(member, is);
        }
        for action in actions {
            self.act(member, action);
        }
        self.leads_on(member);
    }

    fn role_changed(&mut self, member: usize, is: Role) {
        self.mix((member as u64) << 8 | is as u64);
        if !matches!(is, Role::SteppingDown | Role::SteppedDown) {
            self.members[member].answered = false;
        }
        if let (Role::Leader, Some(leader)) = (is, self.members[member].state.leader()) {
            for other in (0..self.members.len()).filter(|other| *other != member) {
                let at = self.now + self.dice.within(200, 3000);
                self.at(at, world::Event::Arrive { node: other, request: Request::Heard(leader.clone()), back: None });
            }
        }
    }

    /// Whatever a member waits for must be under way.
    fn leads_on(&mut self, member: usize) {
        let m = &self.members[member];
        if !m.alive {
            return;
        }
        let under_way = match &m.state.phase {
            Phase::Candidate(Waiting::Idle) | Phase::Leader { .. } | Phase::Suspended { .. } => true,
            Phase::SteppedDown { .. } => true,
            // Answered and not yet told: the turn that told it is still running.
            Phase::Candidate(Waiting::Claiming) => {
                m.lease.queue.iter().any(|order| matches!(order, Order::Claim(_)))
                    || m.lease
                        .doing
                        .as_ref()
                        .is_some_and(|doing| !matches!(doing, Doing::Renew { .. } | Doing::Release))
            }
            Phase::Candidate(Waiting::Asking) => true,
            Phase::TakingOver { term, .. } => m.work.as_ref().is_some_and(|work| work.term == *term),
            Phase::SteppingDown { .. } => m.work.as_ref().is_some_and(|work| work.stage == Stage::Closing),
            Phase::Gone => m.exiting,
        };
        if !under_way {
            let phase = format!("{:?}", m.state.phase);
            self.oracle.refuse(format!("member {member} waits for nothing in {phase}"));
        }
    }

    fn act(&mut self, member: usize, action: Action) {
        match action {
            Action::ReadRow => self.order(member, Order::Read),
            Action::ReadHistory => {
                let held = self.members[member].state.held_term();
                let session = self.members[member].work_session;
                self.sql(member, session, Call::History { held }, Statement::History, self.lease);
            }
            Action::AskStatus(row) => match member_at(&row.address) {
                Some(to) => drop(self.call(member, to, Call::Status(row), Request::Status, STATUS_TIMEOUT)),
                None => self.oracle.refuse(format!("nobody listens at {}", row.address)),
            },
            Action::AskStepDown { leader, force } => {
                let until = self.members[member].after(self.now, self.lease * 3 / 5);
                self.ask(member, Ask { leader, force, until });
            }
            Action::Claim(claim) => self.order(member, Order::Claim(claim)),
            Action::Renew => {
                self.members[member].lease.renew_due = self.now;
                self.pump_lease(member);
            }
            Action::TakeOver(term) => self.take_over(member, term),
            Action::StopLeading { .. } => self.stop_leading(member),
            Action::Release(term, why) => self.release(member, term, why),
            Action::Exit(_) => {
                let m = &mut self.members[member];
                let releasing = m.lease.queue.iter().any(|order| matches!(order, Order::Release(_)))
                    || matches!(m.lease.doing, Some(Doing::Release));
                if releasing {
                    m.exiting = true;
                } else {
                    self.exit(member);
                }
            }
        }
    }

    fn order(&mut self, member: usize, order: Order) {
        // A full queue means that the database is slow; the next tick reads again.
        if matches!(order, Order::Read) && self.members[member].lease.queue.len() >= 32 {
            return;
        }
        self.members[member].lease.queue.push_back(order);
        self.pump_lease(member);
    }

    fn release(&mut self, member: usize, term: Term, why: Ending) {
        let m = &mut self.members[member];
        if why == Ending::TakeOverFailed {
            // It never began to work: everything of it has ended.
            m.lease.held = None;
            m.work = None;
            m.ended_term = Some(term);
        }
        if m.ended_term.take() == Some(term) {
            self.order(member, Order::Release(term));
        }
    }

    /// A claim is known to be committed.
    pub(crate) fn won(&mut self, member: usize, term: Term, sent_at: Us) {
        let (now, renew) = (self.now, self.renew);
        let m = &mut self.members[member];
        if !matches!(m.state.phase, Phase::Candidate(_)) {
            m.ended_term = Some(term);
            return self.order(member, Order::Release(term));
        }
        m.lease.held = Some(term);
        m.lease.renew_due = m.after(now, renew);
        let stage = Stage::Loading;
        m.work = Some(Work { term, stage, queue: Vec::new(), writing: false, reread: false, computes: Vec::new() });
        self.wake_lease(member);
        self.step(member, Event::ClaimEnded(ClaimEnd::Won { term, sent_at: Duration::from_micros(sent_at) }));
    }

    /// Everything of the term has ended, or its grace has; `joined` says which.
    pub(crate) fn stopped(&mut self, member: usize, term: Term, joined: bool) {
        let m = &mut self.members[member];
        if m.work.as_ref().is_none_or(|work| work.term != term) {
            return;
        }
        m.work = None;
        m.ended_term = joined.then_some(term);
        m.answered = true;
        let waiting = std::mem::take(&mut m.waiting);
        self.step(member, Event::Drained);
        let consented = !matches!(self.members[member].state.phase, Phase::Candidate(_));
        for back in waiting {
            self.reply(member, back, if consented { Reply::SteppedDown } else { Reply::NotThatLeader });
        }
    }

    /// A notice of the database, or the end of a stream.
    pub(crate) fn noticed(&mut self, member: usize, term: Option<Term>) {
        match (self.members[member].state.held_term(), term) {
            (Some(mine), Some(term)) if term > mine => {
                self.members[member].lease.renew_due = self.now;
                self.pump_lease(member);
            }
            (Some(_), _) => {}
            (None, _) => self.step(member, Event::Woken),
        }
    }

    pub(crate) fn ask(&mut self, member: usize, ask: Ask) {
        let m = &self.members[member];
        let request = StepDown {
            leader: Some((ask.leader.instance_id, ask.leader.term)),
            candidate: Some(Candidate { instance_id: m.instance(), address: m.state.config.address.clone() }),
            target: m.state.pending.as_ref().map(|_| m.target),
            force: ask.force,
        };
        let left = ask.until.saturating_sub(self.now);
        match member_at(&ask.leader.address) {
            Some(to) if left > 0 => {
                self.call(member, to, Call::Ask(ask), Request::StepDown(request), left);
            }
            _ => self.step(member, Event::AskEnded(AskEnd::Failed)),
        }
    }

    fn asked(&mut self, member: usize, ask: Ask, reply: &Reply) {
        let end = match reply {
            Reply::SteppedDown => AskEnd::Consented,
            Reply::NotThatLeader => AskEnd::NotThatLeader,
            Reply::MigrationFailedBefore => AskEnd::MigrationFailedBefore,
            Reply::Refused => AskEnd::Failed,
            _ => {
                let m = &self.members[member];
                let (at, life) = (m.after(self.now, ASK_PAUSE), m.life);
                return self.at(at, world::Event::AskAgain { member, life, ask });
            }
        };
        self.step(member, Event::AskEnded(end));
    }

    /// An answer, or the end of the wait for one.
    pub(crate) fn answered(&mut self, member: usize, call: u64, reply: Reply) {
        let Some(what) = self.members[member].calls.remove(&call) else { return };
        match what {
            Call::Lease => {
                if self.members[member].lease.call == call {
                    self.lease_answered(member, &reply);
                }
            }
            Call::History { held } => match reply {
                Reply::Sql(Answer::History(terms)) => self.history_read(member, held, &terms),
                // The pool does not hand a broken connection out again.
                _ => self.members[member].work_session = self.given_up(self.members[member].work_session),
            },
            Call::Status(row) => {
                let said = match reply {
                    Reply::Status(said) => said,
                    Reply::Refused => StatusReply::Refused,
                    _ => StatusReply::Silent,
                };
                let answer = judge(&row, &self.members[member].state.config.address, &said);
                self.step(member, Event::Answered { term: row.term, answer });
            }
            Call::Ask(ask) => self.asked(member, ask, &reply),
            Call::Forward { put } => self.forwarded(member, put, &reply),
            Call::Agent { term, compute, push } => self.agent_said(member, term, compute, push, &reply),
            work @ (Call::Begin { .. }
            | Call::Commit { .. }
            | Call::BeginMigration(_)
            | Call::CommitMigration(_)
            | Call::Load(_)
            | Call::Reread(_)) => self.work_answered(member, work, reply),
        }
    }

    fn history_read(&mut self, member: usize, held: Option<Term>, terms: &[Past]) {
        let Some(last) = terms.first().map(|past| past.term) else { return };
        let (newest, before) = held.map_or((last, last.next()), |held| (held, held));
        let targets: Vec<String> = terms.iter().map(|past| past.target.to_string()).collect();
        let past = terms.iter().zip(&targets).map(|(past, target)| PastTerm {
            term: past.term,
            migration_failed: past.migration_failed,
            target,
        });
        let failed = failed_targets(before, past);
        self.step(member, Event::HistoryRead { newest, failed });
    }
}
