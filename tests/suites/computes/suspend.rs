//! A compute that nobody uses is ended by the leader if its policy wants that, and by nobody else.

use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::policy::{PutPolicy, SuspendPolicy};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_harness::agent::Agent;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::{ORDERS_PASSWORD, orders};
use pgfleet_harness::wait::{stays, wait_until};
use serde_json::{Value, json};

use super::{applied, register};

const WHEN_IDLE: PutPolicy = PutPolicy { suspend: Some(SuspendPolicy::WhenIdle), mode: None };

fn suspendable(seconds: i64) -> Value {
    let mut spec = orders();
    spec["suspend_timeout_seconds"] = json!(seconds);
    spec
}

async fn state(client: &ControllerClient, agent: &Agent) -> Option<ComputeState> {
    client.get(&agent.id).await.unwrap().observed.map(|seen| seen.state)
}

async fn is_suspended(client: &ControllerClient, agent: &Agent) {
    let what = format!("{} is suspended", agent.id);
    wait_until(&what, PATIENCE, async || state(client, agent).await == Some(ComputeState::Terminated)).await;
}

/// (term, actor, detail) of every suspension of a compute.
async fn suspensions(fleet: &Fleet, agent: &Agent) -> Vec<(i64, String, Value)> {
    let sql = "SELECT term, actor, detail FROM journal WHERE compute_id = $1 AND detail ->> 'op' = 'suspend'";
    let rows = fleet.database().await.query(sql, &[&agent.id.as_str()]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// The idle one ends, the one in use stays until it is left alone, and the one without the policy stays. Afterwards the
/// leader rests: an agent that has gone is no trouble, and one that comes back is taken up again.
#[tokio::test(flavor = "multi_thread")]
async fn the_idle_one_ends_the_busy_one_stays() {
    let Some(fleet) = Fleet::start("the_idle_one_ends_the_busy_one_stays").await else { return };
    // So slow a sweep that no suspension can come from it.
    let a = fleet.controller("a").probe_interval("60s").start_leader().await;
    let client = fleet.client(&[&a]);
    let (idle, busy, off) =
        (fleet.agent("idle").start().await, fleet.agent("busy").start().await, fleet.agent("off").start().await);
    for agent in [&idle, &busy, &off] {
        register(&client, agent, Some(suspendable(2))).await;
        applied(&client, agent).await;
    }
    let session = busy.connect("orders_app", ORDERS_PASSWORD, "orders").await;
    session.batch_execute("BEGIN").await.unwrap();
    for agent in [&idle, &busy] {
        let view = client.put_policy(&agent.id, &WHEN_IDLE, Some("a test")).await.unwrap();
        assert_eq!(view.policy.suspend, SuspendPolicy::WhenIdle);
    }

    is_suspended(&client, &idle).await;
    assert_eq!(idle.postmaster_pid(), None, "PostgreSQL is stopped");
    let journalled = suspensions(&fleet, &idle).await;
    let [(term, actor, detail)] = &journalled[..] else { panic!("{journalled:?}") };
    assert_eq!((*term, actor.as_str(), &detail["timeout_s"]), (1, "controller", &json!(2)), "{detail}");
    assert!(detail["idle_ms"].as_u64() >= Some(2000), "{detail}");

    busy.shows("in use", PATIENCE, |status| {
        status.activity.as_ref().is_some_and(|activity| activity.idle_for_ms == Some(0))
    })
    .await;
    off.shows("idle for longer than it may be", PATIENCE, |status| {
        status.activity.as_ref().and_then(|activity| activity.idle_for_ms) >= Some(3000)
    })
    .await;
    assert_eq!(state(&client, &busy).await, Some(ComputeState::Running));
    assert_eq!(state(&client, &off).await, Some(ComputeState::Running));
    session.batch_execute("COMMIT").await.unwrap();
    is_suspended(&client, &busy).await;
    assert_eq!(suspensions(&fleet, &off).await, []);
    assert_eq!(off.status().await.unwrap().status, ComputeState::Running);

    let page = a.metrics().await;
    assert!(page.contains("storage_controller_suspensions_total{outcome=\"done\"} 2"), "{page}");
    assert!(page.contains("storage_controller_computes{state=\"terminated\"} 2"), "{page}");
}

/// The next leader finds the policy and does what the one before would have done. An agent that has gone after that is no
/// trouble: nothing is tried and nothing is wrong. One that comes back runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_suspends_and_then_rests() {
    let Some(fleet) = Fleet::start("the_next_leader_suspends_and_then_rests").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&a]);
    let agent = fleet.agent("c1").start().await;
    register(&client, &agent, Some(suspendable(4))).await;
    applied(&client, &agent).await;
    client.put_policy(&agent.id, &WHEN_IDLE, None).await.unwrap();

    let b = fleet.controller("b").memory_door().probe_interval("200ms").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    let client = fleet.client(&[&b]);
    assert_eq!(client.get(&agent.id).await.unwrap().policy.suspend, SuspendPolicy::WhenIdle);
    is_suspended(&client, &agent).await;
    let journalled = suspensions(&fleet, &agent).await;
    assert_eq!(journalled.iter().map(|(term, ..)| *term).collect::<Vec<_>>(), [2], "{journalled:?}");

    let answer = agent.call("POST", "/terminate?mode=immediate").send().await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(agent.process.exit_code(PATIENCE).await, 0);
    let failed = || async {
        let page = b.metrics().await;
        let line =
            page.lines().find(|line| line.starts_with("storage_controller_reconcile_passes_total{outcome=\"failed\"}"));
        line.map(ToOwned::to_owned)
    };
    let before = failed().await;
    stays("at rest", Duration::from_secs(1), async || {
        let view = client.get(&agent.id).await.unwrap();
        let rests = view.last_error.is_none() && view.observed.map(|seen| seen.state) == Some(ComputeState::Terminated);
        rests && failed().await == before
    })
    .await;

    let again = fleet.agent("c1").after(&agent).start().await;
    wait_until("the leader has seen it run", PATIENCE, async || {
        state(&client, &again).await == Some(ComputeState::Running)
    })
    .await;
    is_suspended(&client, &again).await;
    assert_eq!(suspensions(&fleet, &again).await.len(), 2);
}
