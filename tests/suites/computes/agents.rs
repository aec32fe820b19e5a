//! What an agent and its PostgreSQL survive.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::{ErrorCode, Fence, Generation, Term};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::{ORDERS_PASSWORD, marked, orders};
use pgfleet_harness::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{applied, register};

/// Password of the role `orders_owner` in `examples/orders.json`.
const OWNER_PASSWORD: &str = "demo-orders-owner";

/// From the PUT to a login: roles, databases and settings of the spec are in PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn spec_reaches_postgres() {
    let Some(fleet) = Fleet::start("spec_reaches_postgres").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("orders").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, Some(orders())).await;
    let settled = applied(&client, &agent).await;
    assert_eq!((settled.compute.lag, settled.generation), (0, Generation(1)));
    let session = agent.connect("orders_app", ORDERS_PASSWORD, "orders").await;
    let row = session.query_one("SELECT current_user::text, current_setting('work_mem')", &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, String>(1).as_str()), ("orders_app", "12MB"));

    let mut spec = orders();
    *spec.pointer_mut("/cluster/settings/0/value").unwrap() = json!("16MB");
    client.put_spec(&agent.id, &spec, None).await.unwrap();
    applied(&client, &agent).await;
    let session = agent.connect("orders_app", ORDERS_PASSWORD, "orders").await;
    let row = session.query_one("SELECT current_setting('work_mem')", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "16MB");
}

/// The agent is killed. The next one on the same directory finds its promise and its data, runs PostgreSQL, refuses what
/// the first one would have refused, and takes the next spec.
#[tokio::test(flavor = "multi_thread")]
async fn agent_restart() {
    let Some(fleet) = Fleet::start("agent_restart").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, Some(orders())).await;
    applied(&client, &agent).await;
    client.put_spec(&agent.id, &marked("second"), None).await.unwrap();
    applied(&client, &agent).await;
    let before = agent.runs(Generation(2)).await;
    let session = agent.connect("orders_owner", OWNER_PASSWORD, "orders").await;
    session.batch_execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)").await.unwrap();

    agent.process.kill().await;
    let again = fleet.agent("c1").after(&agent).start().await;
    let after = again.runs(Generation(2)).await;
    assert_ne!(after.boot_id, before.boot_id);
    assert_eq!((after.term, &after.spec_hash), (before.term, &before.spec_hash));
    assert!(after.postgres.is_some());
    let session = again.connect("orders_owner", OWNER_PASSWORD, "orders").await;
    assert_eq!(session.query_one("SELECT x FROM kept", &[]).await.unwrap().get::<_, i32>(0), 7);

    let hash = pgfleet_domain::spec::spec_hash(&orders());
    let row = fleet.database().await.query_one("SELECT cluster_id::text FROM cluster", &[]).await.unwrap();
    let cluster_id = row.get::<_, String>(0).parse().unwrap();
    let stale =
        Fence { cluster_id, compute_id: again.id.clone(), term: Term(1), generation: Generation(1), spec_hash: hash };
    let body = json!({"spec": orders(), "fence": stale}).to_string();
    let answer = again.call("POST", "/configure").body(body).send().await;
    assert_eq!(answer.refusal(), (409, ErrorCode::StaleGeneration), "{}", answer.body);
    let answer = again.call("POST", "/spec").body(orders().to_string()).send().await;
    assert!(matches!(answer.status, 409 | 412), "a bare spec is refused once there was a fence: {}", answer.body);

    client.put_spec(&again.id, &marked("third"), None).await.unwrap();
    let settled = applied(&client, &again).await;
    assert_eq!(settled.generation, Generation(3));
    again.runs(Generation(3)).await;
}

/// The agent is killed on either side of the moment in which its promise becomes durable. Before it, nothing was promised
/// and the controller pushes again; after it, the next life finds the promise and keeps it by itself.
#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_around_its_promise() {
    let Some(fleet) = Fleet::start("agent_killed_around_its_promise").await else { return };
    let a = fleet.controller("a").probe_interval("200ms").start_leader().await;
    let client = fleet.client(&[&a]);
    for (name, point, promised) in [("c1", "agent_before_fsync", false), ("c2", "agent_after_rename", true)] {
        let agent = fleet.agent(name).pause_at(point).start().await;
        register(&client, &agent, Some(orders())).await;
        agent.process.paused_at(point).await;
        agent.process.kill().await;
        let ledger = std::fs::read_to_string(fleet.dir().join(format!("compute-{name}/state/ledger.json")));
        assert_eq!(ledger.is_ok_and(|text| text.contains("\"generation\":1")), promised, "{point}");
        let again = fleet.agent(name).after(&agent).start().await;
        again.runs(Generation(1)).await;
        let settled = applied(&client, &again).await;
        assert_eq!((settled.compute.lag, settled.generation), (0, Generation(1)), "{point}");
        let session = again.connect("orders_app", ORDERS_PASSWORD, "orders").await;
        assert_eq!(session.query_one("SELECT 7", &[]).await.unwrap().get::<_, i32>(0), 7);
    }
}

/// PostgreSQL is killed under the agent: it runs again by itself, with its data, and the controller has seen it.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed() {
    let Some(fleet) = Fleet::start("postgres_killed").await else { return };
    let a = fleet.controller("a").probe_interval("200ms").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, Some(orders())).await;
    applied(&client, &agent).await;
    let session = agent.connect("orders_owner", OWNER_PASSWORD, "orders").await;
    session.batch_execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)").await.unwrap();
    let before = agent.runs(Generation(1)).await;
    let pid = agent.postmaster_pid().unwrap();
    assert_eq!(before.postgres.as_ref().map(|server| i64::from(server.pid)), Some(i64::from(pid)));

    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let after = agent
        .shows("another postmaster", PATIENCE, |status| {
            let other = status.postgres.as_ref().is_some_and(|server| i64::from(server.pid) != i64::from(pid));
            status.status == ComputeState::Running && other
        })
        .await;
    assert_eq!((after.boot_id, after.applied_generation), (before.boot_id, Some(Generation(1))));
    assert!(after.status_seq > before.status_seq);
    let session = agent.connect("orders_owner", OWNER_PASSWORD, "orders").await;
    assert_eq!(session.query_one("SELECT x FROM kept", &[]).await.unwrap().get::<_, i32>(0), 7);

    let view = wait_for("the controller has seen the new postmaster", PATIENCE, async || {
        let view = client.get(&agent.id).await.unwrap();
        let seen = view.observed.as_ref().and_then(|seen| seen.postgres.as_ref()).map(|server| server.pid);
        (seen == after.postgres.as_ref().map(|server| server.pid)).then_some(view)
    })
    .await;
    assert_eq!((view.lag, view.generation), (0, Generation(1)), "nobody had to ask for anything");
    client.put_spec(&agent.id, &marked("next"), None).await.unwrap();
    applied(&client, &agent).await;
}

/// SIGTERM: PostgreSQL is stopped in order and the agent ends with 0; the next life starts from there.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_agent() {
    let Some(fleet) = Fleet::start("sigterm_agent").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, Some(orders())).await;
    applied(&client, &agent).await;
    agent.process.terminate();
    assert_eq!(agent.process.exit_code(PATIENCE).await, 0);
    assert_eq!(agent.postmaster_pid(), None, "PostgreSQL has removed its pid file");
    let again = fleet.agent("c1").after(&agent).start().await;
    again.runs(Generation(1)).await;
}
