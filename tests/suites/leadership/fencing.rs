//! What an old leader had begun: not executed, or waited for; never something in between.

use std::time::Duration;

use pgfleet_api::controller::Role;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::{stays, wait_until};

use super::{SECOND, id, journal, put, register, register_meanwhile, stored};

/// The old leader stands inside its write transaction; the new one claims without its consent, ends its sessions and
/// writes the same compute. The old one goes on: its write is nowhere, and its client was not told that it succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn stale_write_refused() {
    let Some(fleet) = Fleet::start("stale_write_refused").await else { return };
    let a = fleet.controller("a").pause_at("in_write_tx").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.is(Role::Candidate, PATIENCE).await;
    let mut stale = register_meanwhile(&fleet, &a, "c1", "stale");
    a.process.paused_at("in_write_tx").await;
    a.process.freeze().await;
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    assert!(b.process.said("ended the old leader's database sessions"), "{}", b.process.log());
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    let name = format!("pgfleet/{}", a.instance_id());
    wait_until("the old leader's sessions have ended", PATIENCE, async || {
        fleet.database().await.query_one(sql, &[&name]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;

    register(&fleet, &b, "c1").await;
    let fresh = put(&fleet, &b, "c1", "fresh").send().await;
    assert_eq!(fresh.status, 202, "{}", fresh.body);
    let before = journal(&fleet, "c1").await;
    a.process.go_on();
    a.process.thaw();
    let answer = stale.join_next().await.unwrap().unwrap();
    assert!(answer.as_ref().is_none_or(|answer| answer.status == 503), "{answer:?}");
    a.is(Role::Candidate, PATIENCE).await;
    stays("only the new leader's write is there", SECOND, async || {
        stored(&fleet, "c1").await == Some((1, "fresh".to_owned())) && journal(&fleet, "c1").await == before
    })
    .await;
}

/// The old leader is well, believes in its lease for another minute, and has not heard that somebody else leads: the row
/// said a second. The first write that reaches it is refused by the fence alone, for the new leader has not written yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_know() {
    let Some(fleet) = Fleet::start("a_leader_that_does_not_know").await else { return };
    let a = fleet.controller("a").lease("60s", "20s").start_leader().await;
    fleet.database().await.execute("UPDATE leader SET lease_ms = 1000", &[]).await.unwrap();
    let b = fleet.controller("b").start().await;
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    assert_eq!(a.status().await.unwrap().role, Role::Leader, "it does not know");
    let answer = register_meanwhile(&fleet, &a, "c1", "stale").join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.header("x-pgfleet-executed"), Some("no"));
    assert_eq!(stored(&fleet, "c1").await, None);
    assert_eq!(journal(&fleet, "c1").await, []);
    a.follows(&b, PATIENCE).await;
    register(&fleet, &b, "c1").await;
    assert_eq!(put(&fleet, &b, "c1", "fresh").send().await.status, 202);
    assert_eq!(stored(&fleet, "c1").await, Some((1, "fresh".to_owned())));
}

/// The old leader consents while a write of it is still open: the claim waits in the database until it is committed, and
/// then the new leader has it. A transaction of anybody else under the old fence is waited for as well.
#[tokio::test(flavor = "multi_thread")]
async fn claim_waits_for_writer() {
    let Some(fleet) = Fleet::start("claim_waits_for_writer").await else { return };
    let long = |name| fleet.controller(name).lease("20s", "500ms");
    let a = long("a").args(&["--step-down-grace", "200ms"]).pause_at("in_write_tx").start_leader().await;
    let mut fenced = fleet.database().await;
    let mut write = register_meanwhile(&fleet, &a, "c1", "the last of the old leader");
    a.process.paused_at("in_write_tx").await;
    let transaction = fenced.transaction().await.unwrap();
    transaction.query_one("SELECT 1 FROM leader WHERE term = 1 FOR KEY SHARE", &[]).await.unwrap();

    let b = long("b").as_candidate().start().await;
    a.is(Role::SteppedDown, PATIENCE).await;
    let waits = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
        let name = format!("pgfleet/{}", b.instance_id());
        fleet.database().await.query_one(sql, &[&name]).await.unwrap().get::<_, i64>(0) == 1
    };
    wait_until("the claim waits", PATIENCE, waits).await;
    assert_eq!(fleet.history().await.len(), 1, "nobody has claimed");

    a.process.go_on();
    let answer = write.join_next().await.unwrap().unwrap().expect("an answer to a write that was committed");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(stored(&fleet, "c1").await, Some((1, "the last of the old leader".to_owned())));
    stays("the claim waits for the other transaction", Duration::from_millis(300), async || {
        b.status().await.unwrap().role == Role::Candidate
    })
    .await;
    assert_eq!(fleet.history().await.len(), 1, "nobody has claimed");
    transaction.commit().await.unwrap();

    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    let view = fleet.client(&[&b]).get_spec(&id("c1")).await.unwrap();
    assert_eq!(pgfleet_harness::specs::mark_of(&view.spec), "the last of the old leader");
    assert_eq!(fleet.history().await[1].1, "step_down");
}
