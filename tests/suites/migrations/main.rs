//! Upgrades of the schema: two real releases side by side, who is shut out, and migrations that do not go well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod failures;
mod releases;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;

/// A port on this machine where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

/// Registers a compute whose agent does not exist.
async fn register(fleet: &Fleet, leader: &Controller, name: &str) {
    let body = RegisterCompute { agent_url: NOBODY.to_owned(), labels: Default::default(), spec: None };
    fleet.client(&[leader]).register(&name.parse().unwrap(), &body).await.unwrap();
}

/// A write through one member succeeds.
async fn writes(fleet: &Fleet, member: &Controller, name: &str, mark: &str) {
    let token = fleet.keys().scope(Scope::Infra);
    let call = member.call("PUT", &format!("/control/v1/compute/{name}/spec")).token(&token);
    let answer = call.body(marked(mark).to_string()).send().await;
    assert_eq!(answer.status, 202, "{mark}: {}", answer.body);
}

/// A directory with one migration; its path.
fn migration(fleet: &Fleet, name: &str, up: &str) -> String {
    let root = fleet.make_dir(name);
    let dir = root.join(format!("20990101000000_{name}"));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("up.sql"), up).unwrap();
    std::fs::write(dir.join("down.sql"), "SELECT 1;").unwrap();
    root.display().to_string()
}

/// What a condition in the controllers' database says.
async fn holds(fleet: &Fleet, condition: &str) -> bool {
    fleet.database().await.query_one(&format!("SELECT {condition}"), &[]).await.unwrap().get(0)
}
