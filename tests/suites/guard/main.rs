//! What a leadership began ends with it, a defect stays with the compute it hits, and the last spans arrive.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod agents;
mod lost;
mod one_token;
mod panics;
mod traces;
mod vital;

use pgfleet_api::auth::Scope;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Answer;

/// The sum of a metric's values over its labels, or over those that contain `label`.
async fn metric(member: &Controller, name: &str, label: &str) -> f64 {
    let page = member.call("GET", "/metrics").send().await.body;
    let lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(label)
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// An operator's step-down.
async fn step_down(fleet: &Fleet, member: &Controller) -> Answer {
    member.call("PUT", "/control/v1/step_down").token(&fleet.keys().scope(Scope::Admin)).send().await
}
