//! What a client sees of a hand-over that knows nothing of it: one connection, no retry.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod fake;
mod hold;
mod load;
mod plain;
mod rolling;
mod streams;

use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::controller::{Candidate, Role, StepDownRequest, StepDownTarget};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use serde_json::Value;

/// A port on this machine where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

/// Registers a compute whose agent does not exist.
async fn register(fleet: &Fleet, leader: &Controller, name: &str) {
    let body =
        RegisterCompute { agent_url: NOBODY.to_owned(), labels: Default::default(), spec: Some(marked("first")) };
    fleet.client(&[leader]).register(&name.parse().unwrap(), &body).await.unwrap();
}

/// One PUT of a spec to one member, with no retry.
fn put(fleet: &Fleet, url: &str, name: &str, mark: &str) -> Call {
    Call::new("PUT", format!("{url}/control/v1/compute/{name}/spec"))
        .token(&fleet.keys().scope(Scope::Infra))
        .body(marked(mark).to_string())
}

/// One GET of a compute at one member, with no retry.
fn get(fleet: &Fleet, url: &str, name: &str) -> Call {
    Call::new("GET", format!("{url}/control/v1/compute/{name}")).token(&fleet.keys().scope(Scope::Viewer))
}

/// Makes the leader step down for a member that stays up.
async fn step_down_for(fleet: &Fleet, leader: &Controller, next: &Controller) {
    let term = leader.leads(PATIENCE).await;
    next.follows(leader, PATIENCE).await;
    let body = StepDownRequest {
        leader: StepDownTarget { instance_id: leader.instance_id(), term },
        candidate: Candidate { instance_id: next.instance_id(), address: next.url().to_owned() },
        target_schema: None,
        force: false,
    };
    let call = leader.call("PUT", "/control/v1/step_down").token(&fleet.keys().scope(Scope::Admin));
    let answer = call.body(serde_json::to_vec(&body).unwrap()).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Steps down with nobody to follow, so that nobody leads for as long as the lease lasts.
async fn headless(fleet: &Fleet, leader: &Controller) {
    let call = leader.call("PUT", "/control/v1/step_down").token(&fleet.keys().scope(Scope::Admin));
    assert_eq!(call.send().await.status, 200);
    leader.is(Role::SteppedDown, PATIENCE).await;
}

/// A value on a member's page of metrics.
async fn metric(url: &str, name: &str) -> f64 {
    let page = Call::new("GET", format!("{url}/metrics")).limit(Duration::from_secs(5)).send().await.body;
    let values = page.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The mark of a spec in an answer.
fn generation(body: &str) -> i64 {
    serde_json::from_str::<Value>(body).unwrap()["generation"].as_i64().unwrap()
}
