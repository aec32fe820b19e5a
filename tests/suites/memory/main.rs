//! What a member that does not lead remembers: the same as the database, always, so that taking over is cheap.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod agrees;
mod cold;
mod large;
mod slow;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::controller::{Role, StepDownResponse};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_until;
use serde_json::{Value, json};

/// A port on this machine where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

fn registration(spec: Option<Value>) -> RegisterCompute {
    RegisterCompute { agent_url: NOBODY.to_owned(), labels: Default::default(), spec }
}

/// Value of a metric without labels, or with these.
async fn metric(member: &Controller, name: &str) -> f64 {
    let page = Call::new("GET", format!("{}/metrics", member.url())).send().await.body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_default().parse().unwrap_or_default()
}

async fn is_warm(member: &Controller) {
    wait_until(&format!("{} is warm", member.process.name()), PATIENCE, async || {
        member.process.still_runs();
        metric(member, "storage_controller_follower_warm").await > 0.0
    })
    .await;
}

/// One member hands over to another one that waits for it.
async fn hand_over(fleet: &Fleet, from: &Controller, to: &Controller) -> i64 {
    let term = from.leads(PATIENCE).await;
    let body = json!({
        "leader": {"instance_id": from.instance_id(), "term": term},
        "candidate": {"instance_id": to.instance_id(), "address": to.url()},
    });
    let call = from.call("PUT", "/control/v1/step_down").token(&fleet.keys().scope(Scope::ControllerPeer));
    let answer = call.body(body.to_string()).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.json::<StepDownResponse>().complete);
    let term = to.leads(PATIENCE).await.get();
    from.is(Role::Candidate, PATIENCE).await;
    term
}
