//! Many that fail, hang or sit behind a slow host hold up nobody's change.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgfleet_clients::controller::ControllerClient;
use pgfleet_harness::wait::wait_until;

use super::fleet::{At, Fleet};
use super::{Controller, Manner, PATIENCE, database, marked};

/// From the request to the push a change takes some milliseconds; this is for a machine that does other things as well,
/// and far below the time for which a push hangs (10 s).
const SOON: Duration = Duration::from_secs(2);

/// Changes a compute and gives the time until its agent got it.
async fn change(client: &ControllerClient, fleet: &Fleet, n: usize, mark: u64) -> Duration {
    let (before, begun) = (fleet.pushes(n), Instant::now());
    client.put_spec(fleet.id(n), &marked(mark), None).await.unwrap();
    wait_until("the change is pushed", PATIENCE, async || fleet.pushes(n) > before).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_that_fail_and_hang_hold_up_no_change() {
    let Some((_cluster, url)) = database("a_thousand_that_fail_and_hang_hold_up_no_change").await else { return };
    let controller = Controller::start(&url, &["--reconcile-concurrency", "16"]).await;
    let client = controller.client();
    let bad = (0..1000).map(|n| if n % 5 == 0 { Manner::Hanging } else { Manner::Failing });
    let fleet = Fleet::start([Manner::Good].into_iter().chain(bad).map(|manner| (manner, At::Alone))).await;
    fleet.register(&client).await;
    wait_until("all were pushed to", PATIENCE * 4, async || (0..=1000).all(|n| fleet.pushes(n) > 0)).await;
    // Far more hang than there are places for passes, slow ones included.
    for mark in 1..=5 {
        let took = change(&client, &fleet, 0, mark).await;
        assert!(took < SOON, "a change waited {took:?} for those that fail");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_host_holds_up_nobody_else() {
    let Some((_cluster, url)) = database("a_slow_host_holds_up_nobody_else").await else { return };
    let args = ["--host-concurrency", "4", "--reconcile-concurrency", "8"];
    let controller = Controller::start(&url, &args).await;
    let client = controller.client();
    let slow = (0..100).map(|_| (Manner::Hanging, At::Together));
    let fleet = Fleet::start([(Manner::Good, At::Alone)].into_iter().chain(slow)).await;
    fleet.register(&client).await;
    wait_until("the slow host is full", PATIENCE, async || fleet.most_hanging.load(Ordering::SeqCst) >= 4).await;
    for mark in 1..=5 {
        let took = change(&client, &fleet, 0, mark).await;
        assert!(took < SOON, "a change waited {took:?} for a host that is not its own");
    }
    assert_eq!(fleet.most_hanging.load(Ordering::SeqCst), 4, "no more at one host than it may have");
    let page = controller.metrics().await;
    let waiting = controller.metric(&page, "storage_controller_reconcile_host_queue");
    assert!(waiting >= 80.0, "{waiting} computes wait for their host");
}
