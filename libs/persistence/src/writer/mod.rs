//! The one writer: every change to what followers read goes through here and nowhere else.
//!
//! Called by: services and the observer through [`Writer`]; the leader value runs the [`WriterTask`].
//!
//! ```text
//!   submit ──▶ bounded queue ──▶ take a batch ──▶ one fenced transaction ──▶ on_commit, then answers
//!                                (one change per    plan (pure) · batch (SQL) · task (retry, doubt, split)
//!                                 compute, sorted)
//! ```
//!
//! Invariants: callers only await an answer, so one that goes away cancels nothing; an answer is given after the
//! commit is known; one writer under the fence draws `change_seq`, hence its order is the commit order. [`Writer`] holds
//! no [`LeaderTerm`], only the task does: clones that linger in handlers do not keep a leadership alive.

mod batch;
mod plan;
mod rollout;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use pgfleet_api::agent::TerminateMode;
use pgfleet_api::compute::Observed;
use pgfleet_api::policy::{ActionKind, PutPolicy};
use pgfleet_api::{ComputeId, Generation, SpecHash, SpecText};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::Hook;
use crate::database::Database;
use crate::records::ComputeRecord;
use crate::term::LeaderTerm;

pub(crate) use batch::Wire;
pub use rollout::{Hand, NewRollout, NewTarget, RolloutChange};
pub use task::WriterTask;

/// Changes that may wait or be written at one time; further callers wait for their turn.
const QUEUE: u32 = 1024;

/// A spec with the hash that was made of it once.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSpec {
    /// As its owner wrote it.
    pub spec: SpecText,
    /// Content hash.
    pub hash: SpecHash,
    /// Its `suspend_timeout_seconds`, if that is a number.
    pub suspend_timeout_s: Option<i64>,
}

impl NewSpec {
    /// A spec with its hash.
    #[must_use]
    pub fn new(spec: &Value, hash: SpecHash) -> Self {
        let suspend_timeout_s = spec.get("suspend_timeout_seconds").and_then(Value::as_i64);
        Self { spec: SpecText::from(spec), hash, suspend_timeout_s }
    }
}

/// Something an operator or a program asked for, for the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The compute it is about, if it is about one.
    pub compute_id: Option<ComputeId>,
    /// Who: the subject of the token.
    pub actor: String,
    /// Why, if it was said.
    pub reason: Option<String>,
    /// What: a JSON object.
    pub detail: Value,
}

/// Who asks for a change, for the line in the journal that is committed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Who: the subject of the token.
    pub actor: String,
    /// Why, if it was said.
    pub reason: Option<String>,
}

/// A change to what followers read.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Makes a compute known or changes its registration. A deleted one is revived and goes on from its generation.
    Register {
        /// Its name.
        compute_id: ComputeId,
        /// Where its agent is reached.
        agent_url: String,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// A first or new spec; none leaves the spec alone.
        spec: Option<NewSpec>,
    },
    /// A new spec. The same content keeps its generation and writes nothing.
    PutSpec {
        /// Which compute.
        compute_id: ComputeId,
        /// The spec.
        spec: NewSpec,
        /// The generation the caller believes to be current.
        if_match: Option<Generation>,
    },
    /// Changes how far the leader may go with a compute by itself. What is so already writes nothing.
    SetPolicy {
        /// Which compute.
        compute_id: ComputeId,
        /// The fields that change.
        policy: PutPolicy,
    },
    /// An intent with the content that is there: a generation of its own, by which its agent applies the spec again or, with
    /// an action, is asked for that. Nothing for a compute without a spec, or one that its policy holds back.
    Act {
        /// Which compute.
        compute_id: ComputeId,
        /// What is to be done once beside, and how PostgreSQL is stopped.
        action: Option<(ActionKind, TerminateMode)>,
    },
    /// The pending action of this generation is done: forgets the action, or the compute if that was wanted. Nothing if
    /// another generation has taken its place.
    Acted {
        /// Which compute.
        compute_id: ComputeId,
        /// The action's.
        generation: Generation,
    },
    /// Passes over a generation that an agent has and the database lacks, because it has lost it: the same content under
    /// the next generation above the agent's. Nothing if the compute is at another generation than `seen` by now.
    Lift {
        /// Which compute.
        compute_id: ComputeId,
        /// The database's generation, as the leader knows it.
        seen: Generation,
        /// The agent's.
        above: Generation,
        /// The agent's content.
        agent_hash: Option<SpecHash>,
    },
    /// Forgets a compute; its generation is kept in a tombstone.
    Delete {
        /// Which compute.
        compute_id: ComputeId,
    },
    /// What an agent reported. Written only if it is news; a new state is journalled in the same transaction.
    Observed {
        /// Which compute.
        compute_id: ComputeId,
        /// The report.
        observed: Box<Observed>,
    },
    /// A line for the journal.
    Journal(Action),
    /// A change of a roll-out, and of the spec that goes with it.
    Rollout(RolloutChange),
}

impl Change {
    /// The compute whose order among other changes has to be kept.
    #[must_use]
    pub fn compute_id(&self) -> Option<&ComputeId> {
        match self {
            Self::Register { compute_id, .. }
            | Self::PutSpec { compute_id, .. }
            | Self::SetPolicy { compute_id, .. }
            | Self::Act { compute_id, .. }
            | Self::Acted { compute_id, .. }
            | Self::Lift { compute_id, .. }
            | Self::Delete { compute_id }
            | Self::Observed { compute_id, .. } => Some(compute_id),
            Self::Journal(action) => action.compute_id.as_ref(),
            Self::Rollout(change) => change.hand().map(|hand| &hand.compute_id),
        }
    }

    fn new_spec(&self) -> Option<&NewSpec> {
        match self {
            Self::Register { spec, .. } => spec.as_ref(),
            Self::PutSpec { spec, .. } => Some(spec),
            Self::Rollout(change) => change.hand().map(|hand| &hand.spec),
            Self::SetPolicy { .. }
            | Self::Act { .. }
            | Self::Acted { .. }
            | Self::Lift { .. }
            | Self::Delete { .. }
            | Self::Observed { .. }
            | Self::Journal(_) => None,
        }
    }
}

/// A change that is in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The compute it was about.
    pub compute_id: Option<ComputeId>,
    /// The compute's generation now; 0 for a line about no compute.
    pub generation: Generation,
    /// The compute's content now.
    pub spec_hash: Option<SpecHash>,
    /// Whether anything was written. `false`: it was so already.
    pub changed: bool,
    /// The number of this change or, if nothing was written, of the last change before it.
    pub change_seq: i64,
    /// After `Register`, `PutSpec`, `SetPolicy`, and an `Act`, `Acted` or `Lift` that changed something: the whole row as it is in the database.
    pub record: Option<ComputeRecord>,
    /// After `Observed`: what is in the database, which is an older report's successor or the newer one found there.
    pub observed: Option<Observed>,
    /// After `Delete`, and an `Acted` that ended in it: forget it.
    pub deleted: bool,
}

/// Why a change is not in the database, or may not be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// Not executed: this process does not lead (any more), or has closed its writer. It stays so.
    #[error("this controller does not lead any more; nothing was written")]
    NotLeader,
    /// Not executed: there is no such compute.
    #[error("there is no such compute")]
    UnknownCompute,
    /// Not executed: the compute is at another generation than the caller believed.
    #[error("the compute is at generation {generation}")]
    PreconditionFailed {
        /// Its current generation.
        generation: Generation,
        /// Its current content; a caller recognises its own write by it.
        spec_hash: Option<SpecHash>,
    },
    /// Not executed: PostgreSQL refuses this very change.
    #[error("the database refuses this change ({sqlstate}): {msg}")]
    Refused {
        /// The code.
        sqlstate: String,
        /// PostgreSQL's message.
        msg: String,
    },
    /// Not executed: the database is away, or too busy for too long.
    #[error("the database is away; nothing was written: {msg}")]
    Unavailable {
        /// What it said last.
        msg: String,
    },
    /// The connection was lost at the commit and it cannot be learnt in time whether it happened.
    #[error("the connection was lost at the commit; whether it was written is not known")]
    OutcomeUnknown,
}

/// Called for every change that was written, in commit order, before its caller gets the answer; also for one whose
/// caller got `OutcomeUnknown` when it later turns out to be committed. It must be quick.
pub type CommitHook = Arc<dyn Fn(&Committed) + Send + Sync>;

/// One batch that was carried out, or not.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Changes in it.
    pub changes: usize,
    /// How long the oldest of them had waited for its turn.
    pub waited: Duration,
    /// How long it took, its retries included.
    pub took: Duration,
}

/// Called after every batch, once its callers have their answers.
pub type BatchHook = Arc<dyn Fn(Batch) + Send + Sync>;

/// What the writer calls.
#[derive(Clone, Default)]
pub struct WriterHooks {
    /// Test door: awaited in each transaction that writes, before its commit.
    pub in_write_tx: Option<Hook>,
    /// Where memory is kept in step.
    pub on_commit: Option<CommitHook>,
    /// Where batches are counted.
    pub on_batch: Option<BatchHook>,
}

impl std::fmt::Debug for WriterHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterHooks")
            .field("in_write_tx", &self.in_write_tx.is_some())
            .field("on_commit", &self.on_commit.is_some())
            .field("on_batch", &self.on_batch.is_some())
            .finish()
    }
}

/// One change on its way, with the caller's ear.
struct Item {
    change: Change,
    /// Whose wish it is; none for what the controller itself notes.
    asker: Option<Asker>,
    answer: oneshot::Sender<Result<Committed, WriteError>>,
    _permit: OwnedSemaphorePermit,
}

impl Item {
    fn new(
        change: Change,
        asker: Option<Asker>,
        permit: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Result<Committed, WriteError>>) {
        let (answer, answered) = oneshot::channel();
        (Self { change, asker, answer, _permit: permit }, answered)
    }

    fn size(&self) -> usize {
        self.change.new_spec().map_or(0, |new| new.spec.len()) + 512
    }

    fn answer(self, result: Result<Committed, WriteError>) {
        // A caller that went away wants no answer; what it asked for was done all the same.
        drop(self.answer.send(result));
    }
}

/// How far the writer has come.
#[derive(Debug)]
struct Position {
    last: AtomicI64,
    sure: AtomicBool,
}

impl Position {
    fn last(&self) -> i64 {
        self.last.load(Ordering::SeqCst)
    }

    fn is_at(&self, last: i64) {
        self.last.store(last, Ordering::SeqCst);
        self.sure.store(true, Ordering::SeqCst);
    }

    fn doubt(&self) {
        self.sure.store(false, Ordering::SeqCst);
    }
}

/// The handle of the writer; clone it freely.
#[derive(Clone, Debug)]
pub struct Writer {
    /// What goes together, so that it is taken together, and since when it waits.
    queue: mpsc::Sender<(Instant, Vec<Item>)>,
    room: Arc<Semaphore>,
    closing: Arc<AtomicBool>,
    position: Arc<Position>,
}

impl Writer {
    /// The handle and the task. `start_change_seq` is that of the load which memory was made from.
    #[must_use]
    pub fn channel(
        db: Arc<Database>,
        term: Arc<LeaderTerm>,
        hooks: WriterHooks,
        start_change_seq: i64,
    ) -> (Self, WriterTask) {
        let (queue, items) = mpsc::channel(QUEUE as usize);
        let position = Position { last: AtomicI64::new(start_change_seq), sure: AtomicBool::new(true) };
        let writer = Self {
            queue,
            room: Arc::new(Semaphore::new(QUEUE as usize)),
            closing: Arc::new(AtomicBool::new(false)),
            position: Arc::new(position),
        };
        let task = WriterTask::new(db, term, hooks, Arc::clone(&writer.position), items);
        (writer, task)
    }

    /// Hands a change to the writer and waits for what became of it. Dropping this future cancels nothing.
    ///
    /// # Errors
    /// [`WriteError`] says for each case whether the change was executed.
    pub async fn submit(&self, change: Change) -> Result<Committed, WriteError> {
        self.hand_in(change, None).await
    }

    /// As [`Self::submit`], for a wish of somebody: if it changes anything, the journal says so in the same commit.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_for(&self, asker: Asker, change: Change) -> Result<Committed, WriteError> {
        self.hand_in(change, Some(asker)).await
    }

    /// As [`Self::submit`] for many changes, which are taken together as far as a batch has room. The answers stand in the
    /// order of the changes.
    pub async fn submit_all(&self, changes: Vec<Change>) -> Vec<Result<Committed, WriteError>> {
        self.submit_each(changes, None).await
    }

    /// As [`Self::submit_all`], for a wish of somebody.
    pub async fn submit_all_for(&self, asker: &Asker, changes: Vec<Change>) -> Vec<Result<Committed, WriteError>> {
        self.submit_each(changes, Some(asker)).await
    }

    async fn submit_each(&self, changes: Vec<Change>, asker: Option<&Asker>) -> Vec<Result<Committed, WriteError>> {
        let mut answers = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter();
        loop {
            let some: Vec<(Change, Option<Asker>)> =
                changes.by_ref().take(task::BATCH_CHANGES).map(|change| (change, asker.cloned())).collect();
            if some.is_empty() {
                return answers;
            }
            answers.extend(self.hand_in_all(some).await);
        }
    }

    async fn hand_in(&self, change: Change, asker: Option<Asker>) -> Result<Committed, WriteError> {
        let answers = self.hand_in_all(vec![(change, asker)]).await;
        answers.into_iter().next().unwrap_or(Err(WriteError::NotLeader))
    }

    async fn hand_in_all(&self, changes: Vec<(Change, Option<Asker>)>) -> Vec<Result<Committed, WriteError>> {
        let count = changes.len();
        let refused = || vec![Err(WriteError::NotLeader); count];
        let places = u32::try_from(count).unwrap_or(QUEUE).min(QUEUE);
        let Ok(mut room) = Arc::clone(&self.room).acquire_many_owned(places).await else { return refused() };
        if self.closing.load(Ordering::SeqCst) {
            return refused();
        }
        let (mut items, mut answered) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (change, asker) in changes {
            let Some(permit) = room.split(1) else { return refused() };
            let (item, answer) = Item::new(change, asker, permit);
            items.push(item);
            answered.push(answer);
        }
        // A permit is a place in the queue, so the only failure is a queue that was closed.
        if !items.is_empty() && self.queue.try_send((Instant::now(), items)).is_err() {
            return refused();
        }
        let mut answers = Vec::with_capacity(count);
        for one in answered {
            answers.push(one.await.unwrap_or(Err(WriteError::OutcomeUnknown)));
        }
        answers
    }

    /// The last change that is known to be committed.
    #[must_use]
    pub fn last_change(&self) -> i64 {
        self.position.last()
    }

    /// The same, if it is known for sure that there is none above it: no commit is in doubt, and nobody else wrote. What
    /// `on_commit` has told of up to here is what is in the database.
    #[must_use]
    pub fn settled_at(&self) -> Option<i64> {
        self.position.sure.load(Ordering::SeqCst).then(|| self.position.last())
    }

    /// Takes no further changes, and waits until those handed in before are answered. `false`: `grace` was over first,
    /// and what is still on its way goes on or ends with the task.
    pub async fn close(&self, grace: Duration) -> bool {
        self.closing.store(true, Ordering::SeqCst);
        tokio::time::timeout(grace, self.room.acquire_many(QUEUE)).await.is_ok()
    }
}
