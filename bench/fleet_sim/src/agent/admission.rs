//! Which spec is taken: the fence first, then the content; only then the machine moves.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::spec::{ComputeMode, RestartPolicy};
use pgfleet_api::{ComputeId, Fence, SpecHash};
use pgfleet_domain::fence::{self, Admission, LedgerRecord, Verdict};
use pgfleet_domain::lifecycle::{Event, transition};

use super::{Agent, Digest, Failure, Micros, Promise, Refusal, Rule};

/// Where a spec comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Somebody sent it.
    Push,
    /// It makes a replica a primary.
    Promote,
}

/// What an agent keeps of a spec that passed the rules.
#[derive(Debug, Clone)]
pub struct Content {
    /// Fields that are not acted on.
    pub ignored: Vec<String>,
    /// What the compute is to be.
    pub mode: ComputeMode,
    /// Whether its storage is page servers, which start afresh each time.
    pub disposable: bool,
    /// What it lets the agent do about settings that need a restart.
    pub restart_policy: RestartPolicy,
}

/// A spec that is handed in.
pub struct Ask<'a> {
    /// Proof of the intent.
    pub fence: Option<&'a Fence>,
    /// Where it comes from.
    pub origin: Origin,
    /// Hash of the content, for a spec without a fence.
    pub hash: &'a dyn Fn() -> SpecHash,
    /// The rules of the content.
    pub judge: &'a dyn Fn() -> Result<Content, Refusal>,
    /// How long it takes to apply, and whether that fails.
    pub apply: (Micros, bool),
}

impl Agent {
    /// Takes a spec; gives the job to wait for, none where it was settled before.
    ///
    /// # Errors
    /// It was not taken.
    pub fn configure(&mut self, own: &ComputeId, ask: &Ask<'_>, now: Micros) -> Result<Option<u32>, Refusal> {
        self.advance(now);
        if transition(self.state, Event::SpecAccepted).is_err() {
            return Err(Refusal::Ending(self.state));
        }
        let Some(fence) = ask.fence else {
            if let Some(known) = self.record(own) {
                return Err(Refusal::FenceRequired { highest: Some(known.mark()) });
            }
            let content = self.content(ask)?;
            let hash = Digest::of(&(ask.hash)());
            if self.accepted.is_none_or(|(before, ..)| before != hash) {
                self.seq += 1;
            }
            return Ok(Some(self.take(content, ask, (hash, None), now)));
        };
        let Admission { verdict, record } = fence::admit(own, self.record(own).as_ref(), fence);
        match verdict {
            Verdict::Accept => match self.content(ask) {
                Ok(content) => {
                    self.keep(record);
                    let accepted = (Digest::of(&fence.spec_hash), Some(fence.generation));
                    Ok(Some(self.take(content, ask, accepted, now)))
                }
                Err(Refusal::Content { path, msg }) => {
                    self.keep(record);
                    self.rejected_generation = Some(fence.generation);
                    let shown = Failure::Refused(Box::new(Rule { path: path.clone(), msg: msg.clone() }));
                    if self.failure.as_ref() != Some(&shown) {
                        self.failure = Some(shown);
                        self.seq += 1;
                    }
                    Err(Refusal::Content { path, msg })
                }
                Err(refusal) => {
                    self.raise(fence);
                    Err(refusal)
                }
            },
            Verdict::AlreadyAccepted if ask.origin == Origin::Promote && self.rejected && self.standby => {
                self.keep(record);
                let content = self.content(ask)?;
                let accepted = (Digest::of(&fence.spec_hash), Some(fence.generation));
                Ok(Some(self.take(content, ask, accepted, now)))
            }
            Verdict::AlreadyAccepted => {
                self.keep(record);
                Ok(self.job_of(fence.generation))
            }
            Verdict::Refuse(refusal) => {
                self.keep(record);
                Err(Refusal::Fence { refusal, highest: self.record(own).as_ref().map(LedgerRecord::mark) })
            }
        }
    }

    /// Judges the fence of an action that is no spec: it must know what the ledger holds, from a leadership that has not
    /// ended.
    ///
    /// # Errors
    /// The fence is stale, or names something else than the ledger holds.
    pub fn prove(&mut self, own: &ComputeId, fence: &Fence, now: Micros) -> Result<(), Refusal> {
        self.advance(now);
        let Admission { verdict, record } = fence::admit(own, self.record(own).as_ref(), fence);
        let refusal = match verdict {
            Verdict::AlreadyAccepted => {
                self.keep(record);
                return Ok(());
            }
            Verdict::Refuse(refusal) => {
                self.keep(record);
                refusal
            }
            Verdict::Accept => {
                self.raise(fence);
                fence::Refusal::Conflict
            }
        };
        Err(Refusal::Fence { refusal, highest: self.record(own).as_ref().map(LedgerRecord::mark) })
    }

    /// What the ledger holds, in the domain's shape.
    pub(super) fn record(&self, own: &ComputeId) -> Option<LedgerRecord> {
        let Promise { cluster, term, generation, hash } = self.promise?;
        Some(LedgerRecord { cluster_id: cluster, compute_id: own.clone(), term, generation, spec_hash: hash.text() })
    }

    /// Keeps what the rule says must be durable.
    fn keep(&mut self, record: Option<LedgerRecord>) {
        let Some(record) = record else { return };
        let kept = Promise {
            cluster: record.cluster_id,
            term: record.term,
            generation: record.generation,
            hash: Digest::of(&record.spec_hash),
        };
        if self.promise != Some(kept) {
            self.promise = Some(kept);
            self.seq += 1;
        }
    }

    /// Keeps a higher term and nothing else of a fence.
    fn raise(&mut self, fence: &Fence) {
        if let Some(promise) = self.promise.as_mut().filter(|promise| fence.term > promise.term) {
            promise.term = fence.term;
            self.seq += 1;
        }
    }

    /// The rules of the content, and whether the data directory can be what it says.
    fn content(&self, ask: &Ask<'_>) -> Result<Content, Refusal> {
        let promoting = ask.origin == Origin::Promote;
        if promoting && !self.standby {
            return Err(Refusal::NotReplica);
        }
        let content = (ask.judge)()?;
        if !content.disposable {
            self.fits(&content.mode, promoting)?;
        }
        Ok(content)
    }

    pub(super) fn fits(&self, mode: &ComputeMode, promoting: bool) -> Result<(), Refusal> {
        let unfit = |msg: &str| Err(Refusal::Content { path: "mode".to_owned(), msg: msg.to_owned() });
        match mode {
            ComputeMode::Static(_) => unfit("Static needs storage of the page-server kind"),
            ComputeMode::Primary if self.standby && !promoting => {
                unfit("the data directory follows a primary: POST /promote makes it one")
            }
            ComputeMode::Replica if promoting => unfit("a promoted compute is a Primary"),
            ComputeMode::Replica if self.has_data && !self.standby => {
                unfit("the data directory is a primary's: a replica is made in an empty one")
            }
            ComputeMode::Primary | ComputeMode::Replica => Ok(()),
        }
    }

    fn take(
        &mut self,
        content: Content,
        ask: &Ask<'_>,
        (hash, generation): (Digest, Option<pgfleet_api::Generation>),
        now: Micros,
    ) -> u32 {
        let job = self.job_for(generation, ask.origin, ask.apply);
        self.accepted = Some((hash, generation, job.id));
        self.rejected = false;
        if *self.ignored != *content.ignored {
            self.ignored = content.ignored.into_boxed_slice();
            self.seq += 1;
        }
        if self.state == ComputeState::Empty {
            self.started = now;
            self.seq += 1;
        }
        self.standby |= content.mode == ComputeMode::Replica && !self.has_data;
        self.has_data = true;
        let id = job.id;
        self.take_up(job, now);
        id
    }
}
