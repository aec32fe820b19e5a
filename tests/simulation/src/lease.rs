//! The lease task of a member: mirrors `storage_controller::leadership::lease` and the claim of `persistence::lease`.

use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_domain::leadership::{Claim, ClaimEnd, Event, Row};

use crate::database::{Answer, RowRecord, Statement};
use crate::member::{Call, Doing, Order};
use crate::net::Reply;
use crate::world::{self, World, address};
use crate::{Mutation, Us};

/// Between two tries of a renewal that failed.
const RENEW_AGAIN: Us = 75_000;
/// Tries of a claim that waits for somebody's lock.
const CLAIM_TRIES: u32 = 8;

impl World {
    /// Starts whatever is next, if nothing is under way. A renewal gives way to an order.
    pub(crate) fn pump_lease(&mut self, member: usize) {
        let now = self.now;
        let m = &mut self.members[member];
        if matches!(m.lease.doing, Some(Doing::Renew { .. })) && !m.lease.queue.is_empty() {
            m.lease.doing = None;
            m.calls.remove(&m.lease.call);
        }
        if m.lease.doing.is_some() {
            return;
        }
        let sent_at = m.clock(now);
        let doing = match m.lease.queue.pop_front() {
            Some(Order::Read) => Doing::Read,
            Some(Order::Release(term)) => {
                let statement = Statement::Release { term, migration_failed: m.migration_failed };
                return self.lease_sql(member, Doing::Release, statement, self.lease);
            }
            Some(Order::Claim(claim)) => return self.start_claim(member, claim, 0),
            None => match m.lease.held {
                Some(term) if now >= m.lease.renew_due => Doing::Renew { term, sent_at },
                Some(_) | None => return,
            },
        };
        let statement = match &doing {
            Doing::Renew { term, sent_at } => Statement::Renew { term: *term, sent_at: *sent_at },
            _ => Statement::Read,
        };
        self.lease_sql(member, doing, statement, self.lease / 2);
    }

    fn lease_sql(&mut self, member: usize, doing: Doing, statement: Statement, limit: Us) {
        let session = self.members[member].lease.session;
        let call = self.sql(member, session, Call::Lease, statement, limit);
        let lease = &mut self.members[member].lease;
        lease.doing = Some(doing);
        lease.call = call;
    }

    fn start_claim(&mut self, member: usize, claim: Claim, tries: u32) {
        let sent_at = self.members[member].clock(self.now);
        match claim.seen.filter(|_| claim.end_sessions) {
            Some(seen) => {
                let doing = Doing::EndSessions { claim, tries, sent_at };
                self.lease_sql(member, doing, Statement::EndSessions(seen.instance_id), self.lease);
            }
            None => self.send_claim(member, claim, tries, sent_at),
        }
    }

    fn send_claim(&mut self, member: usize, claim: Claim, tries: u32, sent_at: Us) {
        let target = self.members[member].target;
        let statement = Statement::Claim { claim, member, lease_us: self.lease, target, sent_at };
        self.lease_sql(member, Doing::Claim { claim, tries, sent_at }, statement, self.lease);
    }

    /// The connection is given up; the next statement makes a new one. The server sees it by its own time-outs, which lie
    /// together below the lease; until then what was sent on it may still be carried out.
    pub(crate) fn given_up(&mut self, session: u64) -> u64 {
        let at = self.now + self.dice.within(1000, self.lease * 4 / 5);
        self.at(at, world::Event::SessionEnds(session));
        self.number()
    }

    fn new_session(&mut self, member: usize) -> u64 {
        let next = self.given_up(self.members[member].lease.session);
        std::mem::replace(&mut self.members[member].lease.session, next)
    }

    /// An answer to what the lease task asked.
    pub(crate) fn lease_answered(&mut self, member: usize, reply: &Reply) {
        let answer = match reply {
            Reply::Sql(answer) => answer.clone(),
            _ => Answer::Broken,
        };
        let broken = matches!(answer, Answer::Broken);
        let Some(doing) = self.members[member].lease.doing.take() else { return };
        let old = if broken { self.new_session(member) } else { self.members[member].lease.session };
        match doing {
            Doing::Read => self.row_read(member, answer),
            Doing::Renew { term, sent_at } => self.renewal_ended(member, term, sent_at, &answer),
            Doing::EndSessions { claim, tries, sent_at } if !broken => self.send_claim(member, claim, tries, sent_at),
            Doing::EndSessions { .. } => self.claim_ended(member, ClaimEnd::Failed),
            Doing::Claim { claim, tries, sent_at } => self.claim_answered(member, claim, tries, sent_at, &answer, old),
            Doing::SettleEnd { claim, sent_at } if !broken => {
                self.lease_sql(
                    member,
                    Doing::SettleRead { claim, lost: true, sent_at },
                    Statement::Read,
                    self.lease / 2,
                );
            }
            Doing::SettleEnd { .. } => self.claim_ended(member, ClaimEnd::Failed),
            Doing::SettleRead { claim, lost, sent_at } => self.settled(member, claim, lost, sent_at, answer),
            Doing::Release => {
                if self.members[member].exiting {
                    self.exit(member);
                }
            }
        }
        self.pump_lease(member);
    }

    fn row_read(&mut self, member: usize, answer: Answer) {
        let Answer::Row(row, schema) = answer else { return self.step(member, Event::ReadFailed) };
        let target = self.members[member].target;
        let pending = (schema < target).then(|| target.to_string());
        if self.members[member].state.pending != pending {
            self.step(member, Event::Pending(pending));
        }
        let off = self.options.mutation == Some(Mutation::LeaseOff);
        let row = row.as_ref().map(row_of).map(|row| if off { Row { lease: Duration::MAX, ..row } } else { row });
        self.step(member, Event::RowRead(row));
    }

    fn renewal_ended(&mut self, member: usize, term: Term, sent_at: Us, answer: &Answer) {
        let (now, renew) = (self.now, self.renew);
        let m = &mut self.members[member];
        let again = if matches!(answer, Answer::Broken) { RENEW_AGAIN } else { renew };
        m.lease.renew_due = m.after(now, again);
        self.wake_lease(member);
        match answer {
            Answer::Done(true) => self.step(member, Event::Renewed { sent_at: Duration::from_micros(sent_at) }),
            Answer::Done(false) if self.members[member].lease.held == Some(term) => self.step(member, Event::Fenced),
            _ => {}
        }
    }

    pub(crate) fn wake_lease(&mut self, member: usize) {
        let m = &self.members[member];
        let (at, life) = (m.lease.renew_due.max(self.now), m.life);
        self.at(at, world::Event::RenewDue { member, life });
    }

    fn claim_ended(&mut self, member: usize, end: ClaimEnd) {
        self.step(member, Event::ClaimEnded(end));
    }

    fn claim_answered(&mut self, member: usize, claim: Claim, tries: u32, sent_at: Us, answer: &Answer, old: u64) {
        match answer {
            Answer::Claimed(Some(term)) => self.won(member, *term, sent_at),
            Answer::Claimed(None) => {
                let doing = Doing::SettleRead { claim, lost: false, sent_at };
                self.lease_sql(member, doing, Statement::Read, self.lease / 2);
            }
            Answer::LockTimeout if tries + 1 < CLAIM_TRIES => self.start_claim(member, claim, tries + 1),
            Answer::LockTimeout => self.claim_ended(member, ClaimEnd::Failed),
            // The old backend may be about to commit; only when it is gone does the row stand still.
            _ => {
                self.lease_sql(member, Doing::SettleEnd { claim, sent_at }, Statement::EndSession(old), self.lease);
            }
        }
    }

    fn settled(&mut self, member: usize, claim: Claim, lost: bool, sent_at: Us, answer: Answer) {
        let Answer::Row(row, _) = answer else { return self.claim_ended(member, ClaimEnd::Failed) };
        let me = self.members[member].instance();
        let known = claim.seen.map_or(claim.floor, |seen| seen.term.max(claim.floor));
        let as_seen = match (&row, claim.seen) {
            (None, None) => true,
            (Some(row), Some(seen)) => row.term == seen.term && row.instance == seen.instance_id,
            _ => false,
        };
        match row {
            Some(row) if row.instance == me && row.term > known && !row.released => {
                self.won(member, row.term, sent_at);
            }
            _ if lost && as_seen => self.claim_ended(member, ClaimEnd::Failed),
            _ => self.claim_ended(member, ClaimEnd::Lost),
        }
    }
}

fn row_of(row: &RowRecord) -> Row {
    Row {
        term: row.term,
        instance_id: row.instance,
        address: address(row.member),
        renewals: row.renewals,
        lease: Duration::from_micros(row.lease_us),
        released: row.released,
    }
}
