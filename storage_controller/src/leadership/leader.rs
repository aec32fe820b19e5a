//! The leader value: the term, the tasks that live by it, and how both end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pgfleet_api::ComputeId;
use pgfleet_api::compute::Observed;
use pgfleet_api::controller::StepDownResponse;
use pgfleet_persistence::{DbError, Ended, LeaderTerm, MigrationError};
use pgfleet_runtime::supervisor::TaskGroup;

use super::handle::Handle;
use super::metrics::LeadershipMetrics;

/// What a new leader is given.
pub struct Mandate {
    /// The proof of leadership. Whoever takes a clone must end with `tasks`.
    pub term: Arc<LeaderTerm>,
    /// The group in which all of this leadership's tasks run.
    pub tasks: TaskGroup,
    /// What the predecessor observed last, after a planned hand-over.
    pub handed_over: BTreeMap<ComputeId, Observed>,
    /// Whom to tell that the database refuses this term.
    pub chair: Handle,
    /// Where the phases of the hand-over are timed.
    pub metrics: Arc<LeadershipMetrics>,
}

/// Why a claimed leadership could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TakeUpError {
    /// A migration failed; the schema is as before it.
    #[error("cannot migrate the schema")]
    Migrate(#[from] MigrationError),
    /// The state could not be loaded.
    #[error("cannot load the state")]
    Load(#[from] DbError),
    /// The leadership was to end before it had begun.
    #[error("asked to end while it migrated")]
    Ended,
}

impl TakeUpError {
    /// How the history says that the term ended. A database that went away says nothing against a migration.
    pub(super) const fn ended(&self) -> Ended {
        match self {
            Self::Migrate(MigrationError::Database(_)) | Self::Load(_) | Self::Ended => Ended::TakeOverFailed,
            Self::Migrate(_) => Ended::MigrationFailed,
        }
    }
}

/// What a leader does, once it has begun.
pub trait Work: Send + Sync {
    /// Ends it: no new work, calls in flight cancelled, writes in flight finished, and, if `flush`, the last
    /// observations saved. Returns whether everything is in the database.
    fn close(&self, flush: bool) -> BoxFuture<'_, bool>;
    /// What was observed of every compute.
    fn observed(&self) -> BTreeMap<ComputeId, Observed>;
}

/// Begins the work: migrates, loads, starts the tasks. Handed in by `app`.
pub type TakeUp = Arc<dyn Fn(Mandate) -> BoxFuture<'static, Result<Arc<dyn Work>, TakeUpError>> + Send + Sync>;

/// One leadership of this process.
pub(super) struct Leader {
    pub(super) term: Arc<LeaderTerm>,
    pub(super) tasks: TaskGroup,
    pub(super) work: Option<Arc<dyn Work>>,
}

/// The format of the body that a successor reads.
const SNAPSHOT_FORMAT: u32 = 1;

impl Leader {
    /// Ends the leadership within `grace` and says what there is to hand over.
    ///
    /// What does not end in time goes on to its end in the background: a transaction is never cut, only fenced.
    /// The term comes back only if nobody else holds it any more.
    pub(super) async fn stop(self, flush: bool, grace: Duration) -> (StepDownResponse, Option<LeaderTerm>) {
        let number = self.term.term();
        let deadline = tokio::time::Instant::now() + grace;
        let closed = match &self.work {
            Some(work) => tokio::time::timeout_at(deadline, work.close(flush)).await,
            None => Ok(true),
        };
        let computes = self.work.as_ref().map(|work| work.observed()).unwrap_or_default();
        drop(self.work);
        let joined = self.tasks.stop_within(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        let complete = closed.unwrap_or(false) && joined.is_ok();
        let term = match (joined, Arc::try_unwrap(self.term)) {
            (Ok(()), Ok(term)) => Some(term),
            (Ok(()), Err(kept)) => {
                let clones = Arc::strong_count(&kept) - 1;
                tracing::error!(term = %number, clones, "a task that was not joined still holds the term: a defect");
                None
            }
            (Err(names), _) => {
                tracing::warn!(term = %number, tasks = ?names, "these tasks outlive the step-down's grace; the fence stops them");
                None
            }
        };
        (StepDownResponse { format: SNAPSHOT_FORMAT, term: number, complete, computes }, term)
    }
}
