//! What lives by one term: take-over, the writer, and the end of both. Mirrors `storage_controller::leadership::leader` and the
//! writer of specs: batches in fenced transactions, acknowledged after the commit, read again after a lost COMMIT.

use pgfleet_api::Term;
use pgfleet_domain::leadership::Event;

use crate::Mutation;
use crate::database::{Answer, Put, Spec, Statement, Work as Writes};
use crate::member::{Call, Seen, Stage};
use crate::net::{Back, PutEnd, Reply};
use crate::world::{self, World};

impl World {
    /// Migrates, loads, starts.
    pub(crate) fn take_over(&mut self, member: usize, term: Term) {
        let (limit, m) = (self.lease, &mut self.members[member]);
        let session = m.work_session;
        let migrates = m.state.pending.is_some();
        if let Some(work) = &mut m.work {
            work.stage = if migrates { Stage::Migrating } else { Stage::Loading };
        }
        let (call, statement) = match migrates {
            true => (Call::BeginMigration(term), Statement::Begin { term, migrates: true }),
            false => (Call::Load(term), Statement::Load(term)),
        };
        self.sql(member, session, call, statement, limit);
    }

    fn current(&self, member: usize, term: Term) -> Option<Stage> {
        self.members[member].work.as_ref().filter(|work| work.term == term).map(|work| work.stage)
    }

    /// An answer to a statement of a leadership, which may have ended meanwhile.
    pub(crate) fn work_answered(&mut self, member: usize, call: Call, reply: Reply) {
        let answer = match reply {
            Reply::Sql(answer) => answer,
            _ => Answer::Broken,
        };
        if matches!(answer, Answer::Broken) {
            self.members[member].work_session = self.given_up(self.members[member].work_session);
        }
        match call {
            Call::Begin { term, batch } => self.write_began(member, term, batch, &answer),
            Call::Commit { term, batch } => self.write_ended(member, term, batch, answer),
            Call::BeginMigration(term) => match answer {
                Answer::Began(tx) => {
                    let span = self.dice.within(1000, self.lease * 2);
                    let life = self.members[member].life;
                    self.at(self.now + span, world::Event::MigrationEnds { member, life, term, tx });
                }
                _ => self.take_over_failed(member, term, false),
            },
            Call::CommitMigration(term) => match answer {
                Answer::Committed(_) if self.current(member, term) == Some(Stage::Migrating) => {
                    if let Some(work) = &mut self.members[member].work {
                        work.stage = Stage::Loading;
                    }
                    let session = self.members[member].work_session;
                    self.sql(member, session, Call::Load(term), Statement::Load(term), self.lease);
                }
                _ => self.take_over_failed(member, term, false),
            },
            Call::Load(term) => match answer {
                Answer::Loaded(specs) if self.current(member, term) == Some(Stage::Loading) => {
                    self.loaded(member, term, &specs);
                }
                _ => self.take_over_failed(member, term, false),
            },
            Call::Reread(term) => self.read_again(member, term, &answer),
            _ => {}
        }
    }

    /// The migration's statements are through. A transaction is never cut: it commits whoever leads, or the fence stops it.
    pub(crate) fn migration_ends(&mut self, member: usize, term: Term, tx: u64) {
        let m = &self.members[member];
        let (session, target) = (m.work_session, m.target);
        if m.fails {
            let statement = Statement::EndSession(session);
            self.members[member].work_session = self.number();
            let next = self.members[member].work_session;
            self.sql(member, next, Call::Lease, statement, self.lease);
            return self.take_over_failed(member, term, true);
        }
        let work = Writes::Migrate(target);
        let commit = Statement::Commit { tx, term, work };
        self.sql(member, session, Call::CommitMigration(term), commit, self.lease);
    }

    fn take_over_failed(&mut self, member: usize, term: Term, migration: bool) {
        match self.current(member, term) {
            Some(Stage::Migrating | Stage::Loading) => {
                self.members[member].migration_failed = migration;
                self.step(member, Event::TakeOverFailed);
            }
            Some(Stage::Closing) => self.stopped(member, term, true),
            Some(Stage::Running) | None => {}
        }
    }

    fn loaded(&mut self, member: usize, term: Term, specs: &[Spec]) {
        let m = &mut self.members[member];
        if let Some(work) = &mut m.work {
            work.stage = Stage::Running;
            work.computes = specs.iter().map(|spec| Seen { spec: *spec, ..Seen::default() }).collect();
        }
        self.step(member, Event::TookOver);
        for compute in 0..specs.len() {
            self.look_at(member, term, compute, 0);
        }
    }

    /// Begins the next batch, if none is under way.
    pub(crate) fn pump_writer(&mut self, member: usize) {
        let limit = self.lease;
        let m = &mut self.members[member];
        let session = m.work_session;
        let Some(work) = m.work.as_mut().filter(|work| work.stage == Stage::Running && !work.writing) else { return };
        let term = work.term;
        if work.reread {
            work.writing = true;
            self.sql(member, session, Call::Reread(term), Statement::Load(term), limit);
            return;
        }
        if work.queue.is_empty() {
            return;
        }
        let mut batch: Vec<(Put, Option<Back>)> = Vec::new();
        let mut rest = Vec::new();
        for (put, back) in work.queue.drain(..) {
            let list = if batch.iter().any(|(known, _)| known.compute == put.compute) { &mut rest } else { &mut batch };
            list.push((put, back));
        }
        work.queue = rest;
        if !self.gate(member) {
            return self.not_executed(member, batch);
        }
        if let Some(work) = &mut self.members[member].work {
            work.writing = true;
        }
        self.executes(member, term);
        if self.options.mutation == Some(Mutation::EarlyAck) {
            for (put, _) in &batch {
                self.oracle.acknowledged(put, 0);
            }
        }
        self.sql(member, session, Call::Begin { term, batch }, Statement::Begin { term, migrates: false }, limit);
    }

    pub(crate) fn executes(&mut self, member: usize, term: Term) {
        let m = &self.members[member];
        let (instance, clock) = (m.instance(), m.clock(self.now));
        self.oracle.executes(instance, term, clock, self.lease - self.lease / 5);
    }

    fn not_executed(&mut self, member: usize, batch: Vec<(Put, Option<Back>)>) {
        for (put, back) in batch {
            self.put_ended(put, PutEnd::NotExecuted, back, member);
        }
    }

    fn write_began(&mut self, member: usize, term: Term, batch: Vec<(Put, Option<Back>)>, answer: &Answer) {
        match answer {
            Answer::Began(tx) => {
                let session = self.members[member].work_session;
                let work = Writes::Specs(batch.iter().map(|(put, _)| *put).collect());
                let commit = Statement::Commit { tx: *tx, term, work };
                self.sql(member, session, Call::Commit { term, batch }, commit, self.lease);
            }
            Answer::Done(false) => {
                self.not_executed(member, batch);
                self.writer_rests(member, term, false);
                if self.members[member].state.held_term() == Some(term) {
                    self.step(member, Event::Fenced);
                }
            }
            // No fence, no write.
            _ => {
                self.not_executed(member, batch);
                self.writer_rests(member, term, false);
            }
        }
    }

    fn write_ended(&mut self, member: usize, term: Term, batch: Vec<(Put, Option<Back>)>, answer: Answer) {
        let Answer::Committed(written) = answer else {
            // What came of it nobody knows.
            for (put, back) in batch {
                self.put_ended(put, PutEnd::Unknown, back, member);
            }
            return self.writer_rests(member, term, true);
        };
        for (put, back) in batch {
            let generation =
                written.iter().find(|(done, _)| done.id == put.id).map_or(0, |(_, generation)| *generation);
            if self.options.mutation != Some(Mutation::EarlyAck) {
                self.oracle.acknowledged(&put, generation);
            }
            self.put_ended(put, PutEnd::Acknowledged, back, member);
            self.learnt(member, term, put.compute, (generation, put.content));
        }
        self.writer_rests(member, term, false);
    }

    fn read_again(&mut self, member: usize, term: Term, answer: &Answer) {
        match answer {
            Answer::Loaded(specs) => {
                for (compute, spec) in specs.iter().enumerate() {
                    self.learnt(member, term, compute, *spec);
                }
                self.writer_rests(member, term, false);
            }
            Answer::Done(false) => {
                self.writer_rests(member, term, true);
                if self.members[member].state.held_term() == Some(term) {
                    self.step(member, Event::Fenced);
                }
            }
            _ => self.writer_rests(member, term, true),
        }
    }

    fn learnt(&mut self, member: usize, term: Term, compute: usize, spec: Spec) {
        let Some(work) = self.members[member].work.as_mut().filter(|work| work.term == term) else { return };
        let Some(seen) = work.computes.get_mut(compute) else { return };
        if seen.spec != spec {
            seen.spec = spec;
            (seen.failed, seen.waited) = (0, 0);
            self.look_at(member, term, compute, 0);
        }
    }

    /// The writer has nothing under way.
    fn writer_rests(&mut self, member: usize, term: Term, reread: bool) {
        let Some(work) = self.members[member].work.as_mut().filter(|work| work.term == term) else { return };
        work.writing = false;
        work.reread = reread;
        match work.stage {
            Stage::Closing => self.stopped(member, term, true),
            // A database that answers nothing is not asked without a pause: the next write or look asks.
            Stage::Running if !reread => self.pump_writer(member),
            Stage::Running => self.look_at(member, term, 0, self.lease / 20),
            Stage::Migrating | Stage::Loading => {}
        }
    }

    /// Ends a leadership: no renewals, no new work, calls cut; writes and migrations end by themselves or the grace does.
    pub(crate) fn stop_leading(&mut self, member: usize) {
        let now = self.now;
        let grace = self.lease / 5;
        let m = &mut self.members[member];
        m.lease.held = None;
        if matches!(m.lease.doing, Some(crate::member::Doing::Renew { .. })) {
            m.lease.doing = None;
            m.calls.remove(&m.lease.call);
        }
        m.calls.retain(|_, call| !matches!(call, Call::Agent { .. } | Call::Load(_)));
        let Some(work) = &mut m.work else { return };
        let term = work.term;
        let busy = work.writing || work.stage == Stage::Migrating;
        work.stage = Stage::Closing;
        let queue = std::mem::take(&mut work.queue);
        let (at, life) = (m.after(now, grace), m.life);
        self.not_executed(member, queue);
        if busy {
            self.at(at, world::Event::GraceEnds { member, life, term });
        } else {
            self.stopped(member, term, true);
        }
    }

    pub(crate) fn grace_ends(&mut self, member: usize, term: Term) {
        if self.current(member, term) == Some(Stage::Closing) {
            self.stopped(member, term, false);
        }
    }
}
