//! What a spec would do at an agent: the desk's way to the agents for a dry run, which pushes nothing.

use std::sync::Arc;

use pgfleet_api::SpecText;
use pgfleet_api::plan::PlanResponse;
use pgfleet_clients::agent::AgentError;
use tokio::sync::Semaphore;

use crate::agents::Agents;

/// Agents asked at once, by all dry runs together: pushes and probes go before.
const AT_ONCE: usize = 8;

/// Asks agents for plans. Cheap to clone.
#[derive(Clone)]
pub struct Preview {
    agents: Agents,
    places: Arc<Semaphore>,
}

impl Preview {
    /// A way to these agents.
    #[must_use]
    pub fn new(agents: Agents) -> Self {
        Self { agents, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What the agent says it would do.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn plan(&self, agent_url: &str, spec: &SpecText) -> Result<PlanResponse, AgentError> {
        let _place = self.places.acquire().await;
        self.agents.plan(agent_url, spec).await
    }
}
