//! Why a use case was not carried out.

use pgfleet_api::controller::{LeaderRef, Role};
use pgfleet_api::policy::Mode;
use pgfleet_api::{ComputeId, Generation, RolloutId, SpecHash};
use pgfleet_domain::spec::SpecError;
use pgfleet_persistence::{DbError, WriteError};

pub use crate::leadership::{StepDownRefusal, TakeOverRefusal};
use crate::rollout::RolloutError;

/// An error of the desk. The door decides the status.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// This member does not lead; nothing was executed.
    #[error("this member does not lead")]
    NotLeading {
        /// What it is.
        role: Role,
        /// Who leads, as far as it knows.
        leader: Option<LeaderRef>,
    },
    /// This member stopped leading while the request waited; asked again elsewhere, it waits for the same.
    #[error("this member does not lead any more")]
    WaitCutShort {
        /// What it is.
        role: Role,
        /// Who leads, as far as it knows.
        leader: Option<LeaderRef>,
        /// The generation that was waited for.
        generation: Generation,
    },
    /// This member does not step down.
    #[error(transparent)]
    StepDown(#[from] StepDownRefusal),
    /// This member did not take over.
    #[error(transparent)]
    TakeOver(#[from] TakeOverRefusal),
    /// There is no such compute.
    #[error("there is no compute {0}")]
    UnknownCompute(ComputeId),
    /// The compute has no spec.
    #[error("compute {0} has no spec yet")]
    NoSpec(ComputeId),
    /// Its policy holds back what was asked for.
    #[error("the policy of compute {compute_id} is {}: set it to active first", .mode.as_str())]
    HeldByPolicy {
        /// Which compute.
        compute_id: ComputeId,
        /// Its mode.
        mode: Mode,
    },
    /// What is asked for was pruned.
    #[error(
        "changes up to {oldest} are not kept any more: watch from {oldest} on, and read the computes for what was before"
    )]
    CursorPruned {
        /// The oldest cursor that is good.
        oldest: i64,
    },
    /// A rule refuses a field.
    #[error("{}", .0.msg)]
    Rule(#[from] SpecError),
    /// The compute is at another generation than the caller believed.
    #[error("compute {compute_id} is at generation {generation}, not at the one If-Match names")]
    PreconditionFailed {
        /// Which compute.
        compute_id: ComputeId,
        /// Its current generation.
        generation: Generation,
        /// Its current content.
        spec_hash: Option<SpecHash>,
    },
    /// There is no such roll-out.
    #[error("there is no roll-out {0}")]
    UnknownRollout(RolloutId),
    /// Another roll-out is in the way.
    #[error("{0}")]
    RolloutConflict(String),
    /// The roll-out's phase does not allow this.
    #[error("{0}")]
    RolloutPhase(String),
    /// PostgreSQL refuses the change.
    #[error("the database refuses this change ({sqlstate}): {msg}")]
    Refused {
        /// Its code.
        sqlstate: String,
        /// Its message.
        msg: String,
    },
    /// The database is away; nothing was executed.
    #[error("the database is away; nothing was written, try again: {msg}")]
    DatabaseAway {
        /// What it said last.
        msg: String,
    },
    /// It may or may not have been executed.
    #[error("the connection to the database was lost at the commit; read the compute to learn whether it was written")]
    OutcomeUnknown,
    /// A read failed.
    #[error("the database does not answer")]
    Database(#[source] DbError),
}

impl ServiceError {
    /// A roll-out's error, in the words of the desk.
    #[must_use]
    pub(super) fn of_rollout(error: RolloutError, not_leading: impl FnOnce() -> Self) -> Self {
        let line = error.to_string();
        match error {
            RolloutError::NotLeading | RolloutError::Write(WriteError::NotLeader) => not_leading(),
            RolloutError::Rule(rule) => Self::Rule(rule),
            RolloutError::Unknown(id) => Self::UnknownRollout(id),
            RolloutError::Exists(_) | RolloutError::Conflict { .. } => Self::RolloutConflict(line),
            RolloutError::Phase { .. } | RolloutError::Unreadable(_) => Self::RolloutPhase(line),
            RolloutError::Database(error) => Self::Database(error),
            RolloutError::Write(WriteError::Refused { sqlstate, msg }) => Self::Refused { sqlstate, msg },
            RolloutError::Write(WriteError::OutcomeUnknown) => Self::OutcomeUnknown,
            RolloutError::Write(WriteError::Unavailable { msg }) => Self::DatabaseAway { msg },
            // Neither is about a roll-out's own rows.
            RolloutError::Write(error @ (WriteError::UnknownCompute | WriteError::PreconditionFailed { .. })) => {
                Self::DatabaseAway { msg: error.to_string() }
            }
        }
    }

    /// A write's error, in the words of the desk.
    #[must_use]
    pub(super) fn of_write(error: WriteError, compute_id: &ComputeId, not_leading: impl FnOnce() -> Self) -> Self {
        match error {
            WriteError::NotLeader => not_leading(),
            WriteError::UnknownCompute => Self::UnknownCompute(compute_id.clone()),
            WriteError::PreconditionFailed { generation, spec_hash } => {
                Self::PreconditionFailed { compute_id: compute_id.clone(), generation, spec_hash }
            }
            WriteError::Refused { sqlstate, msg } => Self::Refused { sqlstate, msg },
            WriteError::Unavailable { msg } => Self::DatabaseAway { msg },
            WriteError::OutcomeUnknown => Self::OutcomeUnknown,
        }
    }
}
