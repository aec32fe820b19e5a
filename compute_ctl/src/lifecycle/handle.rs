//! How other rooms talk to the driver.

use pgfleet_api::agent::{AgentStatus, ComputeState, PromoteState, TerminateMode};
use pgfleet_api::{Fence, FenceMark, Lsn};
use pgfleet_domain::fence;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

/// Where a spec comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Somebody sent it.
    Push,
    /// The agent asked the control plane for it.
    Pull,
    /// It was given at start.
    File,
    /// It makes a replica a primary, once the log is replayed up to this position.
    Promote(Lsn),
}

/// A spec to take.
#[derive(Clone)]
pub struct Configure {
    /// The spec as its owner wrote it.
    pub spec: Value,
    /// Proof of the intent.
    pub fence: Option<Fence>,
    /// Where it comes from.
    pub origin: Origin,
}

/// A spec that was taken.
#[derive(Debug)]
pub struct Admitted {
    /// Tells how it ended; none where it was settled before.
    pub outcome: Option<oneshot::Receiver<Outcome>>,
}

/// How an accepted spec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in effect.
    Applied,
    /// It could not be applied; the status says why.
    Failed,
    /// A later one took its place before it was begun.
    Superseded,
    /// The compute is ending.
    Ended,
}

/// The compute has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Where the log of its server ends; none where that is not known or there was no server.
    pub lsn: Option<Lsn>,
    /// Whether it had ended before it was asked to.
    pub before: bool,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The rule of the ledger.
    Fence {
        /// Which part of it.
        refusal: fence::Refusal,
        /// The highest fence seen.
        highest: Option<FenceMark>,
    },
    /// It has no fence and the ledger holds one.
    FenceRequired {
        /// The highest fence seen.
        highest: Option<FenceMark>,
    },
    /// A rule refuses its content.
    Content {
        /// Path of the field.
        path: String,
        /// Why, in one line.
        msg: String,
    },
    /// Only a replica can be promoted.
    NotReplica,
    /// The compute is ending or has ended.
    Ending(ComputeState),
    /// There is nobody to ask for a spec.
    NoSource,
    /// The ledger could not be written, or PostgreSQL could not be asked; nothing was done.
    Unable(String),
    /// The driver is gone.
    Gone,
}

pub(super) enum Request {
    Configure { configure: Configure, reply: oneshot::Sender<Result<Admitted, Refusal>> },
    Refresh { reply: oneshot::Sender<Result<(), Refusal>> },
    Terminate { mode: TerminateMode, reply: oneshot::Sender<Result<Ended, Refusal>> },
}

/// The driver's door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<AgentStatus>,
    promotion: watch::Receiver<PromoteState>,
}

impl Handle {
    pub(super) fn new(
        requests: mpsc::Sender<Request>,
        status: watch::Receiver<AgentStatus>,
        promotion: watch::Receiver<PromoteState>,
    ) -> Self {
        Self { requests, status, promotion }
    }

    /// How far the last promotion of this life of the agent is.
    #[must_use]
    pub fn promotion(&self) -> PromoteState {
        self.promotion.borrow().clone()
    }

    /// What the driver has published last.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        self.status.borrow().clone()
    }

    /// Hands in a spec; returns when the ledger has it, or why not.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn configure(&self, configure: Configure) -> Result<Admitted, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Configure { configure, reply }).await.map_err(|_| Refusal::Gone)?;
        answer.await.map_err(|_| Refusal::Gone)?
    }

    /// Has the agent ask for its spec and apply it; returns at once.
    ///
    /// # Errors
    /// It is not possible in this state, or there is nobody to ask.
    pub async fn refresh(&self) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Refresh { reply }).await.map_err(|_| Refusal::Gone)?;
        answer.await.map_err(|_| Refusal::Gone)?
    }

    /// Ends the compute; returns when PostgreSQL is gone.
    ///
    /// # Errors
    /// The driver is gone.
    pub async fn terminate(&self, mode: TerminateMode) -> Result<Ended, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Terminate { mode, reply }).await.map_err(|_| Refusal::Gone)?;
        answer.await.map_err(|_| Refusal::Gone)?
    }
}
