//! The controllers' database in small: the leader row with its compare-and-set, fences, open transactions, history, specs.
//!
//! Mirrors the statements of `persistence::lease` and the fence of `persistence::term`: a claim (it writes the key) waits for
//! open fenced transactions and looks again; renewal and release do not. A statement that arrived is carried out even if
//! whoever sent it has given it up, unless its session was ended before.

use std::collections::{BTreeMap, BTreeSet};

use pgfleet_api::{InstanceId, Term};
use pgfleet_domain::leadership::Claim;

use crate::{Mutation, Us};

/// Who speaks: one connection of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Number of the connection.
    pub id: u64,
    /// The process that opened it.
    pub instance: InstanceId,
}

/// The leader row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRecord {
    /// Term in it.
    pub term: Term,
    /// Who claimed it.
    pub instance: InstanceId,
    /// The member with that listener.
    pub member: usize,
    /// How often it renewed.
    pub renewals: i64,
    /// Length of its lease.
    pub lease_us: Us,
    /// Whether it gave the row up.
    pub released: bool,
}

/// One term of the history.
#[derive(Debug, Clone)]
pub struct Past {
    /// Its number.
    pub term: Term,
    /// Whether a failed migration ended it.
    pub migration_failed: bool,
    /// Schema that its leader aimed at.
    pub target: u32,
}

/// A spec as the database has it: its generation, and its content as a number.
pub type Spec = (i64, u64);

/// What an asynchronous failover can lose.
#[derive(Debug, Clone, Default)]
pub struct Data {
    /// The leader row.
    pub row: Option<RowRecord>,
    /// Every term.
    pub history: Vec<Past>,
    /// Latest spec of each compute.
    pub specs: Vec<Spec>,
    /// Newest migration.
    pub schema: u32,
}

/// A write of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Which request.
    pub id: u64,
    /// The compute.
    pub compute: usize,
    /// The content.
    pub content: u64,
    /// When whoever holds it gives it up.
    pub deadline: Us,
    /// The client.
    pub client: usize,
}

/// What a fenced transaction does at its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Writes specs.
    Specs(Vec<Put>),
    /// Moves the schema on.
    Migrate(u32),
}

/// A fenced transaction that is open.
#[derive(Debug, Clone)]
pub struct Open {
    /// Its number.
    pub id: u64,
    /// Whose.
    pub session: Session,
}

/// A statement.
#[derive(Debug, Clone)]
pub enum Statement {
    /// Reads the row.
    Read,
    /// Compare-and-set on the row.
    Claim {
        /// What is asked for.
        claim: Claim,
        /// Whose listener.
        member: usize,
        /// Lease of the claimer.
        lease_us: Us,
        /// Schema it aims at.
        target: u32,
        /// Own clock of the claimer before it was sent.
        sent_at: Us,
    },
    /// Extends the lease.
    Renew {
        /// Of this term.
        term: Term,
        /// Own clock of the leader before it was sent.
        sent_at: Us,
    },
    /// Gives the row up.
    Release {
        /// This term.
        term: Term,
        /// The history keeps it.
        migration_failed: bool,
    },
    /// Ends every session of a process.
    EndSessions(InstanceId),
    /// Ends one session of the own process.
    EndSession(u64),
    /// Opens a fenced transaction. One that waits for its client is ended after a while, one that migrates is at work.
    Begin {
        /// Under this term.
        term: Term,
        /// It does not wait for its client.
        migrates: bool,
    },
    /// Commits it.
    Commit {
        /// Its number.
        tx: u64,
        /// Its term; only the oracle looks at it.
        term: Term,
        /// What it does.
        work: Work,
    },
    /// Reads the specs under the fence.
    Load(Term),
    /// Reads the history.
    History,
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The row and the schema.
    Row(Option<RowRecord>, u32),
    /// Whether something was claimed.
    Claimed(Option<Term>),
    /// The fence or condition found its row, and what was asked for is done; otherwise it did not.
    Done(bool),
    /// A transaction is open.
    Began(u64),
    /// It is committed, with the generation of each write.
    Committed(Vec<(Put, i64)>),
    /// The specs.
    Loaded(Vec<Spec>),
    /// The history, newest first.
    History(Vec<Past>),
    /// Somebody held the lock for too long.
    LockTimeout,
    /// The connection ended, or nobody answered.
    Broken,
}

/// What came of a statement.
#[derive(Debug)]
pub enum Outcome {
    /// This.
    Answer(Answer),
    /// It waits for open fences; the claim is tried again when they end.
    Waits,
}

/// The database.
#[derive(Debug, Default)]
pub struct Database {
    /// Whether it answers.
    pub up: bool,
    /// What is in it.
    pub data: Data,
    /// Fenced transactions under way.
    pub open: Vec<Open>,
    /// Every session that it knows: who opened it.
    sessions: BTreeMap<u64, InstanceId>,
    /// Sessions that it ended.
    ended: BTreeSet<u64>,
    next_tx: u64,
    mutation: Option<Mutation>,
}

impl Database {
    /// An empty one, with `computes` computes registered.
    #[must_use]
    pub fn new(computes: usize, mutation: Option<Mutation>) -> Self {
        let data = Data { specs: vec![(0, 0); computes], ..Data::default() };
        Self { up: true, data, next_tx: 1, mutation, ..Self::default() }
    }

    /// Carries a statement out, now.
    pub fn run(&mut self, session: Session, statement: &Statement) -> Outcome {
        if !self.up || self.ended.contains(&session.id) {
            return Outcome::Answer(Answer::Broken);
        }
        self.sessions.insert(session.id, session.instance);
        let answer = match statement {
            Statement::Read => Answer::Row(self.data.row.clone(), self.data.schema),
            Statement::Claim { claim, member, lease_us, target, .. } => {
                return self.claim(session, claim, *member, *lease_us, *target);
            }
            Statement::Renew { term, .. } => Answer::Done(match self.own(session, *term) {
                Some(row) => {
                    row.renewals += 1;
                    true
                }
                None => false,
            }),
            Statement::Release { term, migration_failed } => Answer::Done(match self.own(session, *term) {
                Some(row) => {
                    row.released = true;
                    if let Some(past) = self.data.history.iter_mut().find(|past| past.term == *term) {
                        past.migration_failed = *migration_failed;
                    }
                    true
                }
                None => false,
            }),
            Statement::EndSessions(instance) => {
                self.end_sessions(*instance);
                Answer::Done(true)
            }
            Statement::EndSession(id) => {
                self.end_session(*id);
                Answer::Done(true)
            }
            Statement::Begin { term, .. } => self.begin(session, *term),
            Statement::Commit { tx, work, .. } => self.commit(*tx, work),
            Statement::Load(term) => match self.own(session, *term) {
                Some(_) => Answer::Loaded(self.data.specs.clone()),
                None => Answer::Done(false),
            },
            Statement::History => Answer::History(self.data.history.iter().rev().take(20).cloned().collect()),
        };
        Outcome::Answer(answer)
    }

    fn own(&mut self, session: Session, term: Term) -> Option<&mut RowRecord> {
        self.data.row.as_mut().filter(|row| row.term == term && row.instance == session.instance && !row.released)
    }

    fn begin(&mut self, session: Session, term: Term) -> Answer {
        if self.own(session, term).is_none() && self.mutation != Some(Mutation::FenceOff) {
            return Answer::Done(false);
        }
        let id = self.next_tx;
        self.next_tx += 1;
        self.open.push(Open { id, session });
        Answer::Began(id)
    }

    fn commit(&mut self, tx: u64, work: &Work) -> Answer {
        let Some(place) = self.open.iter().position(|open| open.id == tx) else { return Answer::Broken };
        self.open.remove(place);
        match work {
            Work::Specs(puts) => {
                let written = puts.iter().filter_map(|put| {
                    let spec = self.data.specs.get_mut(put.compute)?;
                    // The same content keeps its generation: a request that is sent twice is one write.
                    if spec.1 != put.content {
                        *spec = (spec.0 + 1, put.content);
                    }
                    Some((*put, spec.0))
                });
                Answer::Committed(written.collect())
            }
            Work::Migrate(to) => {
                self.data.schema = self.data.schema.max(*to);
                Answer::Committed(Vec::new())
            }
        }
    }

    fn claim(&mut self, session: Session, claim: &Claim, member: usize, lease_us: Us, target: u32) -> Outcome {
        let before = match (&self.data.row, claim.seen) {
            (None, None) => self.data.history.iter().map(|past| past.term).max().unwrap_or(Term(0)),
            (Some(row), Some(seen)) if row.term == seen.term && row.instance == seen.instance_id => {
                let moved = seen.renewals.is_some_and(|renewals| renewals != row.renewals);
                if moved && self.mutation != Some(Mutation::RenewalsOff) {
                    return Outcome::Answer(Answer::Claimed(None));
                }
                row.term
            }
            _ => return Outcome::Answer(Answer::Claimed(None)),
        };
        if !self.open.is_empty() && self.mutation != Some(Mutation::UniqueOff) {
            return Outcome::Waits;
        }
        let term = before.max(claim.floor).next();
        let instance = session.instance;
        self.data.row = Some(RowRecord { term, instance, member, renewals: 0, lease_us, released: false });
        self.data.history.push(Past { term, migration_failed: false, target });
        Outcome::Answer(Answer::Claimed(Some(term)))
    }

    /// Ends all sessions of a process; their transactions are gone.
    pub fn end_sessions(&mut self, instance: InstanceId) {
        let of: Vec<u64> = self.sessions.iter().filter(|(_, who)| **who == instance).map(|(id, _)| *id).collect();
        for id in of {
            self.end_session(id);
        }
    }

    /// Ends one session, whether it was seen already or not.
    pub fn end_session(&mut self, id: u64) {
        self.sessions.remove(&id);
        self.ended.insert(id);
        self.open.retain(|open| open.session.id != id);
    }

    /// Ends a transaction that nobody went on with.
    pub fn abort(&mut self, tx: u64) {
        if let Some(open) = self.open.iter().find(|open| open.id == tx) {
            self.end_session(open.session.id);
        }
    }

    /// Every session ends, as in a restart.
    pub fn end_all(&mut self) {
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        for id in ids {
            self.end_session(id);
        }
    }
}
