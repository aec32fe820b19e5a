//! A member: a process with its clock, its state, and what its room is busy with.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pgfleet_api::compute::Observed;
use pgfleet_api::controller::{Candidate, LeaderRef};
use pgfleet_api::{InstanceId, Term};
use pgfleet_domain::leadership::{Claim, Row, State};

use crate::Us;
use crate::database::{Put, Spec};
use crate::net::Back;

/// What the room wants of the row.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    Read,
    Claim(Claim),
    Release(Term),
}

/// What the lease task is at.
#[derive(Debug, Clone)]
pub(crate) enum Doing {
    Read,
    Renew { term: Term, sent_at: Us },
    EndSessions { claim: Claim, tries: u32, sent_at: Us },
    Claim { claim: Claim, tries: u32, sent_at: Us },
    SettleEnd { claim: Claim, sent_at: Us },
    SettleRead { claim: Claim, lost: bool, sent_at: Us },
    Release,
}

/// The task that owns the connection to the row.
#[derive(Debug, Default)]
pub(crate) struct LeaseTask {
    pub(crate) held: Option<Term>,
    pub(crate) queue: VecDeque<Order>,
    pub(crate) doing: Option<Doing>,
    pub(crate) call: u64,
    pub(crate) session: u64,
    pub(crate) renew_due: Us,
}

/// What an outstanding call is for.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Lease,
    History { held: Option<Term> },
    Status(Row),
    Ask(Ask),
    Begin { term: Term, batch: Vec<(Put, Option<Back>)> },
    Commit { term: Term, batch: Vec<(Put, Option<Back>)> },
    BeginMigration(Term),
    CommitMigration(Term),
    Load(Term),
    Reread(Term),
    Agent { term: Term, compute: usize, push: bool },
    Forward { put: Put },
}

/// A request to step down that is repeated until `until`.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) leader: LeaderRef,
    pub(crate) force: bool,
    pub(crate) until: Us,
}

/// What a leadership is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Migrating,
    Loading,
    Running,
    Closing,
}

/// A compute as a leader sees it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) spec: Spec,
    pub(crate) observed: Option<Observed>,
    pub(crate) busy: bool,
    pub(crate) failed: u32,
    pub(crate) waited: u32,
    /// The look that counts; earlier ones are overtaken.
    pub(crate) look: u64,
}

/// What lives by one term.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) term: Term,
    pub(crate) stage: Stage,
    pub(crate) queue: Vec<(Put, Option<Back>)>,
    /// A transaction of the writer is under way.
    pub(crate) writing: bool,
    /// After a lost COMMIT everything is read again before the next batch.
    pub(crate) reread: bool,
    pub(crate) computes: Vec<Seen>,
}

/// Who waits for a step-down.
#[derive(Debug, Clone)]
pub(crate) struct StepDown {
    pub(crate) leader: Option<(InstanceId, Term)>,
    pub(crate) candidate: Option<Candidate>,
    pub(crate) target: Option<u32>,
    pub(crate) force: bool,
}

/// One controller.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) life: u64,
    pub(crate) alive: bool,
    /// Nobody answers for it, not even its kernel.
    pub(crate) silent: bool,
    pub(crate) paused_until: Us,
    pub(crate) offset: Us,
    /// Own milliseconds per second of the world.
    pub(crate) rate: u64,
    pub(crate) state: State,
    /// Newest migration of its build.
    pub(crate) target: u32,
    /// Its newest migration fails.
    pub(crate) fails: bool,
    /// It is not started again after the faults.
    pub(crate) stays_down: bool,
    pub(crate) lease: LeaseTask,
    pub(crate) work: Option<Work>,
    pub(crate) work_session: u64,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) waiting: Vec<Option<Back>>,
    pub(crate) answered: bool,
    pub(crate) ended_term: Option<Term>,
    pub(crate) migration_failed: bool,
    pub(crate) exiting: bool,
    /// The next start has `--start-as-candidate`.
    pub(crate) asks: bool,
}

impl Member {
    /// Its own clock at `now`, in microseconds.
    pub(crate) fn clock(&self, now: Us) -> Us {
        self.offset + now * self.rate / 1000
    }

    /// When `span` of its own clock has passed.
    pub(crate) fn after(&self, now: Us, span: Us) -> Us {
        now + (span * 1000).div_ceil(self.rate)
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.state.config.me
    }

    /// Whether it may act for its term: the gate of doors and pushes.
    pub(crate) fn proved(&self, now: Us) -> bool {
        self.state.proved_until().is_some_and(|until| Duration::from_micros(self.clock(now)) < until)
    }
}
