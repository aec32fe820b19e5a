//! The room of roll-outs: changes many specs in waves, watches what becomes of them, and goes back.
//!
//! One task owns every roll-out that is under way; the desk asks it through [`Rollouts`]. It decides with
//! `domain::rollout`, writes through the one writer, looks at the window's snapshot, and wakes the engine, which does the
//! pushing as for any spec. Invariants: it takes no input but the database and the snapshot, so the next leader goes on
//! where this one stopped; a phase is in the database before anything is touched in it, and before its asker is answered;
//! after a write whose outcome is not known everything is read again, behind a barrier of the writer's.

mod course;
mod fit;
mod hands;
mod metrics;
mod pass;
mod select;
mod task;

use std::sync::Arc;

use pgfleet_api::RolloutId;
use pgfleet_api::rollout::{RolloutPhase, RolloutPreview, StartRollout};
use pgfleet_domain::rollout::Command;
use pgfleet_domain::spec::SpecError;
use pgfleet_persistence::{Asker, Database, DbError, WriteError, Writer};
use tokio::sync::{mpsc, oneshot};

pub use metrics::RolloutMetrics;
pub use task::Task;

use crate::observe::Snapshot;
use crate::reconcile::{MayAct, Waker};
use select::Selection;

/// Wishes that may wait; a further one waits for its turn.
const QUEUE: usize = 16;

/// What the room works with, for as long as this leadership lasts.
#[derive(Clone)]
pub struct Tools {
    /// Intent and observation.
    pub snapshot: Snapshot,
    /// The one writer.
    pub writer: Writer,
    /// What is read of roll-outs.
    pub database: Arc<Database>,
    /// The engine's nudge.
    pub waker: Waker,
    /// Whether this member may act right now.
    pub may_act: MayAct,
    /// What the room counts.
    pub metrics: Arc<RolloutMetrics>,
}

/// Why a wish was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// This leadership is over.
    #[error("this member does not lead")]
    NotLeading,
    /// A rule refuses a field.
    #[error(transparent)]
    Rule(#[from] SpecError),
    /// There is none of this name.
    #[error("there is no roll-out {0}")]
    Unknown(RolloutId),
    /// There is another one of this name.
    #[error("there is another roll-out {0} already; give this one another rollout_id")]
    Exists(RolloutId),
    /// Another one that is under way has some of its computes.
    #[error("roll-out {with} is under way and has compute {compute} as well; wait for it, or abort it")]
    Conflict {
        /// Which.
        with: RolloutId,
        /// One of the computes.
        compute: String,
    },
    /// Its phase does not allow this.
    #[error("roll-out {rollout_id} is {}, which does not allow {}", .phase.as_str(), .command.as_str())]
    Phase {
        /// Which.
        rollout_id: RolloutId,
        /// Where it stands.
        phase: RolloutPhase,
        /// What was asked for.
        command: Command,
    },
    /// The database has it in words of a later build.
    #[error("roll-out {0} was written by a later release; ask a controller of that release")]
    Unreadable(RolloutId),
    /// It is not in the database, or may not be.
    #[error("the roll-out was not written")]
    Write(#[source] WriteError),
    /// A read failed.
    #[error("the database does not answer")]
    Database(#[from] DbError),
}

/// A wish on its way to the task.
enum Ask {
    Start { asker: Asker, request: Box<StartRollout>, rollout_id: RolloutId, selection: Selection, answer: Answer },
    Command { asker: Asker, rollout_id: RolloutId, command: Command, answer: Answer },
}

type Answer = oneshot::Sender<Result<(), RolloutError>>;

/// The room's handle. Cheap to clone; what is asked after the end of the leadership is answered `NotLeading`.
#[derive(Clone)]
pub struct Rollouts {
    asks: mpsc::Sender<Ask>,
    snapshot: Snapshot,
    database: Arc<Database>,
}

impl Rollouts {
    /// The handle and the task.
    #[must_use]
    pub fn open(tools: Tools) -> (Self, Task) {
        let (asks, asked) = mpsc::channel(QUEUE);
        let (snapshot, database) = (tools.snapshot.clone(), tools.database.clone());
        (Self { asks, snapshot, database }, Task::new(tools, asked))
    }

    /// Writes a roll-out down, which then begins. The same request under the same name again does nothing.
    ///
    /// # Errors
    /// See [`RolloutError`]; a compute whose spec with the patch would be refused is one of them.
    pub async fn start(&self, asker: Asker, request: StartRollout) -> Result<RolloutId, RolloutError> {
        let rollout_id = request.rollout_id.clone().unwrap_or_else(RolloutId::generate);
        let request = StartRollout { rollout_id: Some(rollout_id.clone()), ..request };
        let selection = select::select(&self.snapshot, &self.database, &request).await?;
        selection.check()?;
        let named = rollout_id.clone();
        let request = Box::new(request);
        self.ask(|answer| Ask::Start { asker, request, rollout_id: named, selection, answer }).await?;
        Ok(rollout_id)
    }

    /// Who would be touched, in which order and wave.
    ///
    /// # Errors
    /// A rule refuses the request, or it selects nothing.
    pub async fn preview(&self, request: &StartRollout) -> Result<RolloutPreview, RolloutError> {
        Ok(select::select(&self.snapshot, &self.database, request).await?.preview())
    }

    /// Carries an operator's wish out. What is so already does nothing.
    ///
    /// # Errors
    /// See [`RolloutError`].
    pub async fn command(&self, asker: Asker, rollout_id: RolloutId, command: Command) -> Result<(), RolloutError> {
        self.ask(|answer| Ask::Command { asker, rollout_id, command, answer }).await
    }

    async fn ask(&self, ask: impl FnOnce(Answer) -> Ask) -> Result<(), RolloutError> {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(ask(answer)).await.is_err() {
            return Err(RolloutError::NotLeading);
        }
        // Everything that can be asked for is done once if it is done twice, so an answer that was lost is no harm.
        answered.await.unwrap_or(Err(RolloutError::NotLeading))
    }
}
