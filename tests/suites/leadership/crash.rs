//! The leader ends without consent: killed, or frozen.

use std::time::{Duration, Instant};

use pgfleet_api::compute::SpecAccepted;
use pgfleet_api::controller::Role;
use pgfleet_harness::controller::LEASE;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::load::Load;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_for;

use super::{get_meanwhile, id, is_there, journal, put, put_meanwhile, register, register_meanwhile, stored};

/// The killed leader's port refuses, so nobody waits for its lease, which is long here. Clients write and read all the
/// while: what was acknowledged is there, and no request fails for good.
#[tokio::test(flavor = "multi_thread")]
async fn sigkill_leader() {
    let Some(fleet) = Fleet::start("sigkill_leader").await else { return };
    let a = fleet.controller("a").lease("20s", "500ms").start_leader().await;
    let b = fleet.controller("b").lease("20s", "500ms").start().await;
    b.is(Role::Candidate, PATIENCE).await;
    register(&fleet, &a, "c1").await;
    register(&fleet, &a, "c2").await;
    let last = put(&fleet, &a, "c1", "the last before the load").send().await;
    let load = Load::start(&fleet, &[&a, &b], &[id("c1"), id("c2")]);
    load.goes_on("load before the crash", 50).await;

    let killed = Instant::now();
    a.process.kill().await;
    let term = b.leads(PATIENCE).await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(2), "the take-over took {took:?}");
    assert_eq!(term.get(), 2);
    load.goes_on("load after the crash", 50).await;

    let acknowledged = load.finish().await;
    acknowledged.is_in_the_history(&fleet).await;
    for (name, (generation, hash)) in acknowledged.newest() {
        is_there(&fleet, &b, &name, generation, &hash).await;
        assert!(generation > last.json::<SpecAccepted>().generation, "generations go on");
    }
    let history = fleet.history().await;
    assert_eq!(history[1], (2, "crash".to_owned(), None));
    assert_eq!(history[0].2.as_deref(), Some("crash"), "{history:?}");
}

/// Nobody looks at the row for twenty seconds here, and nobody's lease runs out: what wakes the candidates is the end of
/// their streams. One of them claims, and the other follows it.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_tells_of_a_crash() {
    let Some(fleet) = Fleet::start("the_stream_tells_of_a_crash").await else { return };
    let slow = |name| fleet.controller(name).lease("60s", "20s");
    let a = slow("a").start_leader().await;
    let b = slow("b").start().await;
    let c = slow("c").start().await;
    let client = fleet.client(&[&a]);
    wait_for("both follow", PATIENCE, async || (client.controllers().await.ok()?.controllers.len() == 3).then_some(()))
        .await;
    let killed = Instant::now();
    a.process.kill().await;
    let (leader, other) = wait_for("one of them leads", PATIENCE, async || {
        for (one, other) in [(&b, &c), (&c, &b)] {
            if one.status().await.is_some_and(|status| status.role == Role::Leader) {
                return Some((one, other));
            }
        }
        None
    })
    .await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(5), "the take-over took {took:?}");
    other.follows(leader, Duration::from_secs(10)).await;
    assert_eq!(fleet.history().await.len(), 2, "one claimed");
    let page = leader.call("GET", "/metrics").send().await.body;
    assert!(page.contains(r#"storage_controller_leadership_wakes_total{cause="stream"}"#), "{page}");
}

/// A leader frozen inside a write transaction: the candidate leads within the lease and a second. Thawed, the old one
/// executes nothing, neither what it had begun nor what was sent to it meanwhile, and waits in line.
#[tokio::test(flavor = "multi_thread")]
async fn frozen_leader() {
    let Some(fleet) = Fleet::start("frozen_leader").await else { return };
    let a = fleet.controller("a").pause_at("in_write_tx").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.is(Role::Candidate, PATIENCE).await;
    let mut begun = register_meanwhile(&fleet, &a, "c1", "begun by the old leader");
    a.process.paused_at("in_write_tx").await;

    let frozen = Instant::now();
    a.process.freeze().await;
    let term = b.leads(PATIENCE).await;
    let took = frozen.elapsed();
    assert!(took < LEASE + Duration::from_secs(1), "the take-over took {took:?}");
    assert_eq!(term.get(), 2);
    assert_eq!(stored(&fleet, "c1").await, None, "what was not committed is not there");
    register(&fleet, &b, "c1").await;
    assert_eq!(put(&fleet, &b, "c1", "by the new leader").send().await.status, 202);

    let mut queued = put_meanwhile(&fleet, &a, "c1", "queued at the frozen leader");
    let mut read = get_meanwhile(&fleet, &a, "/control/v1/compute/c1");
    a.process.go_on();
    a.process.thaw();
    for (what, task) in [("begun", &mut begun), ("queued", &mut queued), ("read", &mut read)] {
        let answer = task.join_next().await.unwrap().unwrap();
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 503), "{what}: {answer:?}");
    }
    a.follows(&b, PATIENCE).await;
    assert_eq!(put(&fleet, &a, "c1", "by the old leader").send().await.status, 503);
    assert_eq!(stored(&fleet, "c1").await, Some((1, "by the new leader".to_owned())));
    assert!(journal(&fleet, "c1").await.iter().all(|(term, _)| *term == 2), "the old leader's term wrote nothing");
    assert_eq!(b.leads(PATIENCE).await.get(), 2, "the old one disturbs nobody");
    assert_eq!(fleet.history().await[1], (2, "lease".to_owned(), None));
}
