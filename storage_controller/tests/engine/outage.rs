//! A part of the fleet, and all of it, vanishes and returns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_api::availability::Availability;
use pgfleet_api::bulk::ApplyOutcome;
use pgfleet_harness::postgres::Cluster;
use pgfleet_harness::wait::{stays, wait_until};
use serde_json::json;

use super::fleet::{At, Fleet};
use super::{Controller, Manner, PATIENCE, database, marked};

/// Agents asked per second that did not answer last.
const RATE: usize = 200;

/// Two thousand agents whose computes are as wanted, and their leader.
async fn settled(test: &str) -> Option<(Cluster, Controller, Arc<Fleet>)> {
    let (cluster, url) = database(test).await?;
    let args = ["--connect-rate", &RATE.to_string(), "--probe-max", "2s"];
    let controller = Controller::start(&url, &args).await;
    let fleet = Fleet::start((0..2000).map(|_| (Manner::Good, At::Alone))).await;
    fleet.register(&controller.client()).await;
    let lagging = "storage_controller_computes_lagging";
    controller.metric_becomes(lagging, PATIENCE * 3, |lagging| lagging == 0.0).await;
    Some((cluster, controller, fleet))
}

/// Most of a large fleet vanishes and returns at once: the controller makes no storm of it, the rest is served as ever, and
/// in the end all are known to be back.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_that_vanish_and_return_make_no_storm() {
    let Some((_cluster, controller, fleet)) = settled("two_thousand_that_vanish_and_return_make_no_storm").await else {
        return;
    };
    let (client, most, patience) = (controller.client(), 1..1700, PATIENCE * 3);

    fleet.vanish(most.clone(), true);
    let silent = |count: usize| move |now: f64| now >= f64::from(u32::try_from(count).unwrap());
    controller.metric_becomes("storage_controller_computes_silent", patience, silent(most.len())).await;
    let known = Instant::now();
    let window = Duration::from_secs(1);
    tokio::time::sleep(window).await;
    fleet.vanish(most.clone(), false);
    let returned = Instant::now();
    let begun = Instant::now();
    let before = fleet.pushes(0);
    client.put_spec(fleet.id(0), &marked(1), None).await.unwrap();
    wait_until("a change is pushed meanwhile", PATIENCE, async || fleet.pushes(0) > before).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "a change waited {took:?} for those that are away");
    controller.metric_becomes("storage_controller_computes_silent", patience, |silent| silent == 0.0).await;

    let (peak, connects) = (fleet.most_blind_connects_within(window, known), fleet.connects_since(returned));
    // A tenth at once, a few whose connection was kept, and what a busy machine accepts late.
    assert!(peak <= RATE * 3 / 2, "{peak} connections in a second, of {connects}");
    assert!(connects >= most.len(), "each was asked again: {connects}");
    let settled = returned.elapsed();
    assert!(settled < Duration::from_secs(40), "{settled:?} until all were known to be back");
}

/// Owners want something of all that have just vanished, before anybody knows: that is no storm either, and who answers is
/// served as ever.
#[tokio::test(flavor = "multi_thread")]
async fn changes_for_those_that_have_just_vanished_make_no_storm() {
    let Some((_cluster, controller, fleet)) = settled("changes_for_those_that_have_just_vanished_make_no_storm").await
    else {
        return;
    };
    let (client, most, patience) = (controller.client(), 1..1700, PATIENCE * 3);

    let line = |n: usize| format!("{}\n", json!({"compute_id": fleet.id(n), "spec": marked(1)}));
    let change = most.clone().map(line).collect::<String>().into_bytes();
    let vanished = Instant::now();
    fleet.vanish(most.clone(), true);
    let applied = client.apply(change).await.unwrap();
    assert!(applied.iter().all(|line| line.outcome == ApplyOutcome::Applied), "{applied:?}");
    let before = fleet.pushes(0);
    client.put_spec(fleet.id(0), &marked(1), None).await.unwrap();
    let begun = Instant::now();
    wait_until("a change is pushed meanwhile", PATIENCE, async || fleet.pushes(0) > before).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "a change waited {took:?} for those that are away");
    let window = Duration::from_secs(1);
    tokio::time::sleep(window * 2).await;
    let peak = fleet.most_blind_connects_within(window, vanished);
    // Before it was noticed: all passes and probes at once; then the rate of those that call, and of those that look.
    assert!(peak <= 256 + RATE * 5 / 2, "{peak} connections in a second");

    fleet.vanish(most, false);
    controller.metric_becomes("storage_controller_computes_lagging", patience, |lagging| lagging == 0.0).await;
}

/// Nobody answers any more: that is said, and nobody is called offline; a half of them: those are.
#[tokio::test(flavor = "multi_thread")]
async fn all_at_once_is_our_own_fault_and_a_half_is_not() {
    let Some((_cluster, url)) = database("all_at_once_is_our_own_fault_and_a_half_is_not").await else { return };
    let args = ["--max-offline-interval", "1s", "--probe-max", "200ms"];
    let controller = Controller::start(&url, &args).await;
    let client = controller.client();
    let fleet = Fleet::start((0..40).map(|_| (Manner::Good, At::Alone))).await;
    fleet.register(&client).await;
    controller.metric_becomes("storage_controller_computes_lagging", PATIENCE, |lagging| lagging == 0.0).await;
    let by = |name: &str| format!("storage_controller_computes_by_availability{{availability=\"{name}\"}}");
    controller.metric_becomes(&by("active"), PATIENCE, |active| active == 40.0).await;

    fleet.vanish(0..40, true);
    controller.metric_becomes("storage_controller_fleet_silent", PATIENCE, |silent| silent == 1.0).await;
    controller.metric_becomes("storage_controller_computes_silent", PATIENCE, |silent| silent == 40.0).await;
    stays("nobody is offline", Duration::from_secs(3), async || {
        controller.metric(&controller.metrics().await, &by("active")) == 40.0
    })
    .await;

    fleet.vanish(20..40, false);
    controller.metric_becomes("storage_controller_fleet_silent", PATIENCE, |silent| silent == 0.0).await;
    controller.metric_becomes(&by("offline"), PATIENCE, |offline| offline == 20.0).await;
    assert_eq!(client.get(fleet.id(3)).await.unwrap().availability, Some(Availability::Offline));
    assert_eq!(client.get(fleet.id(33)).await.unwrap().availability, Some(Availability::Active));

    fleet.vanish(0..20, false);
    controller.metric_becomes(&by("active"), PATIENCE, |active| active == 40.0).await;
    let journal = client.history_all(fleet.id(3)).await.unwrap();
    let said = serde_json::to_string(&journal).unwrap();
    for availability in ["offline", "active"] {
        assert!(said.contains(&format!("\"availability\":\"{availability}\"")), "{said}");
    }
}

/// A new leader knows from memory what is unfinished, and does that before it looks at anybody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_pushes_first_what_is_unfinished() {
    let Some((_cluster, url)) = database("a_new_leader_pushes_first_what_is_unfinished").await else { return };
    let first = Controller::start(&url, &[]).await;
    let client = first.client();
    let fleet = Fleet::start((0..500).map(|_| (Manner::Good, At::Alone))).await;
    fleet.register(&client).await;
    first.metric_becomes("storage_controller_computes_lagging", PATIENCE, |lagging| lagging == 0.0).await;
    fleet.vanish(499..500, true);
    client.put_spec(fleet.id(499), &marked(1), None).await.unwrap();
    first.metric_becomes("storage_controller_computes_silent", PATIENCE, |silent| silent == 1.0).await;
    let saved = "storage_controller_computes_lagging_by_age{age=\"under_5s\"}";
    first.metric_becomes(saved, PATIENCE, |lagging| lagging == 1.0).await;
    drop(first);

    fleet.vanish(499..500, false);
    let begun = Instant::now();
    // So rarely that no look comes by chance.
    let _second = Controller::start(&url, &["--probe-min", "1h", "--probe-max", "1h"]).await;
    wait_until("it is pushed", PATIENCE, async || fleet.pushes(499) == 2).await;
    let connects = fleet.connects_since(begun);
    assert!(connects <= 3, "{connects} agents were asked before");
    assert!((0..499).all(|n| fleet.pushes(n) == 1), "nobody else was pushed to");
}

/// An owner's change for an agent that does not answer makes it asked at once, whatever its back-off.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_for_one_that_is_silent_makes_it_asked_at_once() {
    let Some((_cluster, url)) = database("a_change_for_one_that_is_silent_makes_it_asked_at_once").await else {
        return;
    };
    let args = ["--probe-min", "1h", "--probe-max", "1h", "--max-offline-interval", "4s"];
    let controller = Controller::start(&url, &args).await;
    let client = controller.client();
    let fleet = Fleet::start([(Manner::Good, At::Alone)]).await;
    fleet.vanish(0..1, true);
    fleet.register(&client).await;
    let offline = "storage_controller_computes_by_availability{availability=\"offline\"}";
    controller.metric_becomes(offline, PATIENCE, |offline| offline == 1.0).await;
    // From now on it is asked rarely: the pauses have grown, and reach for an hour.
    fleet.vanish(0..1, false);
    client.put_spec(fleet.id(0), &marked(1), None).await.unwrap();
    let begun = Instant::now();
    wait_until("it is pushed", PATIENCE, async || fleet.pushes(0) == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "after {:?}", begun.elapsed());
}
