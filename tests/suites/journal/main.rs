//! What an operator asks for and asks about: policy, actions, explanation, history, and how long the journal remembers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod actions;
mod cli;
mod explain;
mod fake;
mod policy;
mod retention;
mod takeover;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::bulk::WatchEvent;
use pgfleet_api::compute::{ComputeView, HistoryQuery, RegisterCompute, WaitOutcome};
use pgfleet_api::explain::{ExplainCode, ExplainView};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_harness::agent::Agent;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_for;
use serde_json::Value;

/// Registers an agent's compute and waits until it runs.
async fn converge(client: &ControllerClient, agent: &Agent, spec: Value) {
    let body = RegisterCompute { agent_url: agent.url().to_owned(), labels: Default::default(), spec: Some(spec) };
    client.register(&agent.id, &body).await.unwrap();
    applied(client, agent).await;
}

async fn applied(client: &ControllerClient, agent: &Agent) {
    let result = client.wait(&agent.id, None, PATIENCE).await.unwrap();
    assert_eq!(result.outcome, WaitOutcome::Applied, "{result:?}");
}

fn state(view: &ComputeView) -> Option<ComputeState> {
    view.observed.as_ref().map(|seen| seen.state)
}

/// Waits until the controller has seen the compute in this state.
async fn seen_as(client: &ControllerClient, agent: &Agent, wanted: ComputeState) -> ComputeView {
    let what = format!("{} is seen as {}", agent.id, wanted.as_str());
    wait_for(&what, PATIENCE, async || client.get(&agent.id).await.ok().filter(|view| state(view) == Some(wanted)))
        .await
}

/// Waits until a compute is explained by this code.
async fn explained(client: &ControllerClient, id: &str, code: ExplainCode) -> ExplainView {
    let id = id.parse().unwrap();
    wait_for(&format!("{id} is {}", code.as_str()), PATIENCE, async || {
        client.explain(&id).await.ok().filter(|view| view.code == code)
    })
    .await
}

/// What was asked for a compute, the newest first: (what, who, why).
async fn asked(client: &ControllerClient, id: &str) -> Vec<(String, String, Option<String>)> {
    let query = HistoryQuery { kind: Some("action".to_owned()), ..HistoryQuery::default() };
    let page = client.history(&id.parse().unwrap(), &query).await.unwrap();
    let line = |line: WatchEvent| (line.detail["op"].as_str().unwrap_or_default().to_owned(), line.actor, line.reason);
    page.lines.into_iter().map(line).collect()
}
