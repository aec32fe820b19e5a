//! An agent in small: the real rule of the ledger and the real lifecycle, with a disk that is slow and a process that dies.
//!
//! Mirrors `compute_ctl`: one request at a time is admitted; what it changes is durable before anything is answered or done;
//! one spec at a time is applied, and one that comes meanwhile waits; after a restart the accepted spec is applied again.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::Observed;
use pgfleet_api::{BootId, ComputeId, Fence, Generation, SpecHash, Term};
use pgfleet_domain::fence::{Admission, LedgerRecord, Verdict, admit};
use pgfleet_domain::lifecycle::{Event, transition};
use uuid::Uuid;

use crate::Mutation;

/// What lies on its disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The ledger.
    pub record: Option<LedgerRecord>,
    /// Last generation in effect.
    pub applied: i64,
    /// Last generation that was given up.
    pub rejected: i64,
}

/// The agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its compute.
    pub id: ComputeId,
    /// Whether the process runs.
    pub up: bool,
    /// Which life.
    pub boot: u64,
    seq: u64,
    /// What survives it.
    pub disk: Disk,
    state: ComputeState,
    /// An admission that is being written.
    pub writing: Option<Admission>,
    /// A spec is being applied: its generation.
    pub applying: Option<i64>,
    mutation: Option<Mutation>,
}

impl Agent {
    /// A new one for compute number `index`, with an empty disk.
    #[must_use]
    pub fn new(id: ComputeId, mutation: Option<Mutation>) -> Self {
        Self {
            id,
            up: true,
            boot: 1,
            seq: 1,
            disk: Disk::default(),
            state: ComputeState::Empty,
            writing: None,
            applying: None,
            mutation,
        }
    }

    /// Judges a push. Only one at a time may be judged: the caller waits while [`Self::writing`] is some.
    pub fn judge(&mut self, fence: &Fence) -> Admission {
        let known = self.disk.record.as_ref().filter(|_| self.mutation != Some(Mutation::LedgerOff));
        admit(&self.id, known, fence)
    }

    /// The record is durable: takes the spec, if it was accepted. Whether applying may begin.
    pub fn wrote(&mut self, admission: &Admission) -> bool {
        if let Some(record) = &admission.record {
            self.disk.record = Some(record.clone());
            self.seq += 1;
        }
        if admission.verdict != Verdict::Accept {
            return false;
        }
        self.moved(Event::SpecAccepted);
        self.begin()
    }

    /// Begins to apply what was accepted last, if nothing is being applied and it is not in effect yet.
    pub fn begin(&mut self) -> bool {
        let Some(generation) = self.accepted() else { return false };
        if self.applying.is_some() || self.state != ComputeState::ConfigurationPending {
            return false;
        }
        self.moved(Event::ApplyStarted);
        self.applying = Some(generation);
        true
    }

    /// An application ended. Whether the next one may begin.
    pub fn applied(&mut self, ok: bool) -> bool {
        let Some(generation) = self.applying.take() else { return false };
        if ok {
            self.disk.applied = self.disk.applied.max(generation);
            self.moved(Event::ApplySucceeded);
        } else {
            self.disk.rejected = self.disk.rejected.max(generation);
            self.moved(Event::ApplyFailed);
        }
        if self.accepted().is_some_and(|accepted| accepted > generation) {
            self.moved(Event::SpecAccepted);
            return self.begin();
        }
        false
    }

    /// The process dies; what was not durable is gone.
    pub fn crash(&mut self) {
        self.up = false;
        self.boot += 1;
        self.writing = None;
        self.applying = None;
    }

    /// It starts again from its disk. Whether an application begins.
    pub fn start(&mut self) -> bool {
        self.up = true;
        self.seq = 1;
        self.state = ComputeState::Empty;
        let Some(accepted) = self.accepted() else { return false };
        self.moved(Event::StartRequested);
        self.moved(Event::StartSucceeded);
        if self.disk.applied < accepted && self.disk.rejected < accepted {
            self.moved(Event::SpecAccepted);
            return self.begin();
        }
        false
    }

    fn accepted(&self) -> Option<i64> {
        self.disk.record.as_ref().map(|record| record.generation.get())
    }

    /// What cannot happen changes nothing, as in the driver.
    fn moved(&mut self, event: Event) {
        if let Ok(next) = transition(self.state, event) {
            self.state = next;
            self.seq += 1;
        }
    }

    /// What it shows.
    #[must_use]
    pub fn observed(&self) -> Observed {
        let record = self.disk.record.as_ref();
        let some = |n: i64| (n > 0).then_some(Generation(n));
        Observed {
            state: self.state,
            boot_id: BootId(Uuid::from_u64_pair(7, self.boot)),
            status_seq: self.seq,
            term: record.map(|record| record.term),
            generation: record.map(|record| record.generation),
            applied_generation: some(self.disk.applied),
            rejected_generation: some(self.disk.rejected),
            spec_hash: record.map(|record| record.spec_hash.clone()),
            pending_restart: Vec::new(),
            ignored_fields: Vec::new(),
            error: None,
            error_detail: None,
            failures: Vec::new(),
            postgres: None,
        }
    }

    /// Highest term it has promised.
    #[must_use]
    pub fn promised(&self) -> Term {
        self.disk.record.as_ref().map_or(Term(0), |record| record.term)
    }
}

/// The hash of a content.
#[must_use]
pub fn hash_of(content: u64) -> SpecHash {
    let text = format!("{content:064x}");
    match text.parse() {
        Ok(hash) => hash,
        Err(error) => panic!("{text} is a hash by its form: {error}"),
    }
}
