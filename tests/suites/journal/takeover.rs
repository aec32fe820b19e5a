//! What the next leader knows after a crash.

use pgfleet_api::ComputeId;
use pgfleet_api::compute::{RegisterCompute, WaitOutcome};
use pgfleet_api::controller::Role;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;

use super::fake::Fake;

const FLEET: usize = 30;

/// The leader is killed with one spec on its way, in a fleet of thirty. The next one starts from what was observed: its first
/// call to any agent is the push of that spec, and no agent is asked before.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_pushes_before_it_asks_anybody() {
    let Some(fleet) = Fleet::start("the_next_leader_pushes_before_it_asks_anybody").await else { return };
    let fake = Fake::start().await;
    // So slow a sweep that its first turn comes late; the engine's own looks are what is tested.
    let slow = |name| fleet.controller(name).probe_interval("600s");
    let a = slow("a").start_leader().await;
    let b = slow("b").start().await;
    b.follows(&a, PATIENCE).await;
    let client = fleet.client(&[&a, &b]);
    let ids: Vec<ComputeId> = (0..FLEET).map(|n| format!("c{n:02}").parse().unwrap()).collect();
    for id in &ids {
        let body = RegisterCompute { agent_url: fake.url(id), labels: Default::default(), spec: Some(marked("first")) };
        client.register(id, &body).await.unwrap();
    }
    for id in &ids {
        assert_eq!(client.wait(id, None, PATIENCE).await.unwrap().outcome, WaitOutcome::Applied, "{id}");
    }
    wait_until("what was observed is in the database", PATIENCE, async || {
        let sql = "SELECT count(*) FROM observed WHERE observed ->> 'applied_generation' = '1'";
        fleet.database().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 30
    })
    .await;

    fake.fails(true);
    let dirty = &ids[FLEET / 2];
    client.put_spec(dirty, &marked("second"), None).await.unwrap();
    wait_until("the push fails", PATIENCE, async || fake.take_calls().contains(&("push", dirty.to_string()))).await;
    a.process.kill().await;
    fake.fails(false);
    fake.take_calls();
    b.is(Role::Leader, PATIENCE).await;
    wait_until("the next leader calls somebody", PATIENCE, async || fake.has_calls()).await;
    assert_eq!(client.wait(dirty, None, PATIENCE).await.unwrap().outcome, WaitOutcome::Applied);
    let calls = fake.take_calls();
    assert_eq!(calls.first(), Some(&("push", dirty.to_string())), "{calls:?}");
    let probes_before = calls.iter().take_while(|(kind, _)| *kind == "probe").count();
    assert_eq!(probes_before, 0, "{calls:?}");
}
