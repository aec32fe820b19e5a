//! Controllers, agents and their PostgreSQL together: what was accepted gets there, and only that.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod agents;
mod dry_run;
mod pull;
mod rolling_restart;
mod stale_push;
mod suspend;
mod verify;

use pgfleet_api::compute::{RegisterCompute, WaitOutcome, WaitResult};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_harness::agent::Agent;
use pgfleet_harness::process::PATIENCE;
use serde_json::Value;

/// Registers an agent's compute.
async fn register(client: &ControllerClient, agent: &Agent, spec: Option<Value>) {
    let body = RegisterCompute { agent_url: agent.url().to_owned(), labels: Default::default(), spec };
    client.register(&agent.id, &body).await.unwrap();
}

/// Waits until the controller says that the compute's generation is in effect.
async fn applied(client: &ControllerClient, agent: &Agent) -> WaitResult {
    let result = client.wait(&agent.id, None, PATIENCE).await.unwrap();
    assert_eq!(result.outcome, WaitOutcome::Applied, "{result:?}");
    result
}
