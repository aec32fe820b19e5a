//! The leader value: the term, the tasks that live by it, and how both end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pgfleet_api::compute::Observed;
use pgfleet_api::controller::StepDownResponse;
use pgfleet_api::{ComputeId, Term};
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
    CutShort,
}

impl TakeUpError {
    /// How the history says that the term ended. A database that went away says nothing against a migration.
    pub(super) const fn ended(&self) -> Ended {
        match self {
            Self::Migrate(MigrationError::Database(_)) | Self::Load(_) | Self::CutShort => Ended::TakeOverFailed,
            Self::Migrate(_) => Ended::MigrationFailed,
        }
    }
}

/// What was observed of the fleet, page by page, so that nobody has to hold all of it.
pub trait Observations: Send + Sync {
    /// Up to `limit` computes that were observed, ordered by id, after `after`; none when there are no more.
    fn page(&self, after: Option<&ComputeId>, limit: usize) -> Vec<(ComputeId, Arc<Observed>)>;
}

/// What a leader does, once it has begun.
pub trait Work: Send + Sync {
    /// Ends it: no new work, calls in flight cancelled, writes in flight finished, and, if `flush`, the last
    /// observations saved. Returns whether everything is in the database.
    fn close(&self, flush: bool) -> BoxFuture<'_, bool>;
    /// What was observed of every compute, without the term: it is read after the leadership has ended.
    fn observed(&self) -> Arc<dyn Observations>;
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

/// A leadership that ended by a step-down, and what there is to hand over.
pub struct SteppedDown {
    /// The term that ended.
    pub term: Term,
    /// Whether everything was drained and flushed within the grace.
    pub complete: bool,
    observed: Option<Arc<dyn Observations>>,
}

impl SteppedDown {
    pub(super) fn new(term: Term, complete: bool, observed: Option<Arc<dyn Observations>>) -> Self {
        Self { term, complete, observed }
    }

    /// The answer to a successor, without the observed state.
    #[must_use]
    pub fn head(&self) -> StepDownResponse {
        let (term, complete) = (self.term, self.complete);
        StepDownResponse { format: SNAPSHOT_FORMAT, term, complete, computes: BTreeMap::new() }
    }

    /// The observed state, see [`Observations::page`].
    #[must_use]
    pub fn page(&self, after: Option<&ComputeId>, limit: usize) -> Vec<(ComputeId, Arc<Observed>)> {
        self.observed.as_ref().map(|observed| observed.page(after, limit)).unwrap_or_default()
    }
}

impl Leader {
    /// Ends the leadership within `grace` and says what there is to hand over.
    ///
    /// What does not end in time goes on to its end in the background: a transaction is never cut, only fenced.
    /// The term comes back only if nobody else holds it any more.
    pub(super) async fn stop(self, flush: bool, grace: Duration) -> (SteppedDown, Option<LeaderTerm>) {
        let number = self.term.term();
        let deadline = tokio::time::Instant::now() + grace;
        let closed = match &self.work {
            Some(work) => tokio::time::timeout_at(deadline, work.close(flush)).await,
            None => Ok(true),
        };
        let observed = self.work.as_ref().map(|work| work.observed());
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
        (SteppedDown::new(number, complete, observed), term)
    }
}
