//! Who leads: boot, hand-over, crash, fencing. Controllers only; no compute is needed for any of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod boot;
mod crash;
mod fencing;
mod hand_over;
mod suspend;
mod transfer;

use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::{ComputeId, Generation, SpecHash};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::{Answer, Call};
use pgfleet_harness::specs::{mark_of, marked};
use serde_json::Value;

/// A port on this machine where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

fn id(name: &str) -> ComputeId {
    name.parse().unwrap()
}

/// Registers a compute whose agent does not exist: leadership needs none.
async fn register(fleet: &Fleet, leader: &Controller, name: &str) {
    let body = RegisterCompute { agent_url: NOBODY.to_owned(), labels: Default::default(), spec: None };
    fleet.client(&[leader]).register(&id(name), &body).await.unwrap();
}

/// One PUT of a spec to one member, with no retry.
fn put(fleet: &Fleet, member: &Controller, name: &str, mark: &str) -> Call {
    member
        .call("PUT", &format!("/control/v1/compute/{name}/spec"))
        .token(&fleet.keys().scope(Scope::Infra))
        .body(marked(mark).to_string())
}

/// A PUT that is sent now, while the test goes on.
fn put_meanwhile(fleet: &Fleet, member: &Controller, name: &str, mark: &str) -> tokio::task::JoinSet<Option<Answer>> {
    let call = put(fleet, member, name, mark);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { call.try_send().await.ok() });
    task
}

/// A GET that is sent now, while the test goes on.
fn get_meanwhile(fleet: &Fleet, member: &Controller, path: &str) -> tokio::task::JoinSet<Option<Answer>> {
    let call = member.call("GET", path).token(&fleet.keys().scope(Scope::Viewer));
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { call.try_send().await.ok() });
    task
}

/// The same with a registration that brings a first spec: one write that makes a compute.
fn register_meanwhile(
    fleet: &Fleet,
    member: &Controller,
    name: &str,
    mark: &str,
) -> tokio::task::JoinSet<Option<Answer>> {
    let body = RegisterCompute { agent_url: NOBODY.to_owned(), labels: Default::default(), spec: Some(marked(mark)) };
    let call = member
        .call("PUT", &format!("/control/v1/compute/{name}"))
        .token(&fleet.keys().scope(Scope::Infra))
        .body(serde_json::to_vec(&body).unwrap());
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { call.try_send().await.ok() });
    task
}

/// (generation, mark of the spec) in the database.
async fn stored(fleet: &Fleet, name: &str) -> Option<(i64, String)> {
    let sql = "SELECT generation, spec::text FROM computes WHERE compute_id = $1";
    let row = fleet.database().await.query_opt(sql, &[&name]).await.unwrap()?;
    let spec: Option<String> = row.get(1);
    let spec: Value = serde_json::from_str(&spec.unwrap_or_else(|| "{}".to_owned())).unwrap();
    Some((row.get(0), mark_of(&spec)))
}

/// (term, detail) of what the journal has of a compute.
async fn journal(fleet: &Fleet, name: &str) -> Vec<(i64, String)> {
    let sql = "SELECT term, detail::text FROM journal WHERE compute_id = $1 ORDER BY change_seq";
    let rows = fleet.database().await.query(sql, &[&name]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A write is in the database and at the new leader, as it was acknowledged.
async fn is_there(fleet: &Fleet, leader: &Controller, name: &ComputeId, generation: Generation, hash: &SpecHash) {
    let view = fleet.client(&[leader]).get_spec(name).await.unwrap();
    assert_eq!((view.generation, &view.spec_hash), (generation, hash), "{name}");
    assert_eq!(stored(fleet, name.as_str()).await.unwrap().0, generation.get(), "{name}");
}

const SECOND: Duration = Duration::from_secs(1);
