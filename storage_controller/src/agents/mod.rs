//! Room 5, the post: pushes and probes over the wire, with a limit on how many at once.
//!
//! Called by the engine and the window. It calls `clients::agent`. Invariants: every push carries a fence that a
//! `LeaderTerm` made; no retry happens here, because whether and when to try again is the engine's decision.

mod connections;
mod metrics;
mod silence;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_api::activity::Activity;
use pgfleet_api::agent::TerminateMode;
use pgfleet_api::compute::Observed;
use pgfleet_api::plan::PlanResponse;
use pgfleet_api::{ComputeId, ErrorCode, Fence, SpecText};
use pgfleet_clients::agent::{AgentClient, AgentError};
use pgfleet_runtime::panic_door::{PanicPoint, Panics};
use pgfleet_runtime::pause::{PausePoint, Pauses};
use tokio::sync::{Semaphore, SemaphorePermit};

pub use connections::{ConnectionMetrics, room};
pub use metrics::{AgentMetrics, Outcome};
pub use silence::is_silence;

/// The way to every agent. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    client: AgentClient,
    places: Arc<Semaphore>,
    metrics: Arc<AgentMetrics>,
    doors: Doors,
}

/// What an agent says about itself.
#[derive(Debug, Clone)]
pub struct Probed {
    /// What is kept.
    pub observed: Observed,
    /// Whether its PostgreSQL is in use; true at this moment only, and kept nowhere.
    pub activity: Option<Activity>,
}

/// A place among the calls under way. The semaphore is never closed, so there always is one.
pub struct Place<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

/// The test doors of the post.
#[derive(Debug, Clone, Default)]
pub struct Doors {
    /// Where it stands still.
    pub pauses: Pauses,
    /// Where it breaks.
    pub panics: Panics,
}

impl Agents {
    /// At most `limit` calls at once.
    #[must_use]
    pub fn new(client: AgentClient, limit: usize, metrics: Arc<AgentMetrics>, doors: Doors) -> Self {
        Self { client, places: Arc::new(Semaphore::new(limit)), metrics, doors }
    }

    /// Whether a call to the agent would need no new connection.
    #[must_use]
    pub fn is_connected(&self, url: &str) -> bool {
        self.client.is_connected(url)
    }

    /// Waits for a place among the calls; it is given back when the value goes, also by a panic.
    pub async fn place_for_push(&self, compute_id: &ComputeId) -> Place<'_> {
        let place = Place { _permit: self.places.acquire().await.ok() };
        self.doors.panics.at(PanicPoint::InPush, compute_id);
        self.doors.pauses.at(PausePoint::BeforePush).await;
        place
    }

    /// Hands a committed intent to the agent; returns what the agent says once its ledger is durable.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn push(
        &self,
        place: Place<'_>,
        url: &str,
        fence: Fence,
        spec: &SpecText,
    ) -> Result<Observed, AgentError> {
        let begun = Instant::now();
        let answer = self.client.configure(url, spec, &fence).await;
        drop(place);
        self.metrics.pushed(outcome(&answer), begun.elapsed());
        answer.map(Observed::from)
    }

    /// Asks the agent what a spec would do. It takes no place of a push or a probe: whoever asks has a limit of his own.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn plan(&self, url: &str, spec: &SpecText) -> Result<PlanResponse, AgentError> {
        self.client.plan(url, spec).await
    }

    /// Asks the agent what it is.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn probe(&self, url: &str) -> Result<Probed, AgentError> {
        let place = self.places.acquire().await;
        let answer = self.client.status(url).await;
        drop(place);
        self.metrics.probed(outcome(&answer));
        answer.map(|mut status| Probed { activity: status.activity.take(), observed: Observed::from(status) })
    }

    /// Asks the agent to end a compute; returns when its PostgreSQL is gone.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn terminate(&self, url: &str, fence: Fence, mode: TerminateMode) -> Result<(), AgentError> {
        let place = self.places.acquire().await;
        let answer = self.client.end(url, fence, mode).await;
        drop(place);
        answer.map(drop)
    }

    /// Asks the agent to end a compute that nobody has used for so long; returns when its PostgreSQL is gone.
    ///
    /// # Errors
    /// See [`AgentError`]; refused with `not_idle` if it was used since.
    pub async fn suspend(&self, url: &str, fence: Fence, idle: Duration) -> Result<(), AgentError> {
        let place = self.places.acquire().await;
        let answer = self.client.suspend(url, fence, idle).await;
        drop(place);
        answer.map(drop)
    }
}

fn outcome<T>(answer: &Result<T, AgentError>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Ok,
        Err(AgentError::Unreachable { .. }) => Outcome::Unreachable,
        Err(AgentError::Timeout { .. }) => Outcome::Timeout,
        Err(AgentError::Unauthorized { .. } | AgentError::Token { .. }) => Outcome::Unauthorized,
        Err(AgentError::Garbled { .. }) => Outcome::Garbled,
        Err(AgentError::Refused { body, .. }) => match body.body.code {
            ErrorCode::StaleTerm | ErrorCode::StaleGeneration => Outcome::Stale,
            _ => Outcome::Refused,
        },
    }
}
