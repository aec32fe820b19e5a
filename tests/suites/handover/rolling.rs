//! Hand-overs and restarts under a load of clients that never try again: none of their requests fails.

use std::time::Duration;

use pgfleet_harness::controller::{Controller, ControllerOptions};
use pgfleet_harness::fleet::{Fleet, free_port};
use pgfleet_harness::process::PATIENCE;

use super::load::Load;
use super::{register, step_down_for};

/// What has to succeed before, between and after.
const ENOUGH: usize = 100;

fn long<'f>(fleet: &'f Fleet, name: &str) -> ControllerOptions<'f> {
    // Longer than by default, for a machine that is busy with other things.
    fleet.controller(name).lease("20s", "500ms").args(&["--handover-hold", "8s"])
}

/// The leadership goes round three members that stay up; each client knows one of them only.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_through_any_member() {
    let Some(fleet) = Fleet::start("no_request_fails_through_any_member").await else { return };
    let a = long(&fleet, "a").start_leader().await;
    let follower = |name| long(&fleet, name).memory_door().start();
    let (b, c) = (follower("b").await, follower("c").await);
    let members = [&a, &b, &c];
    for name in ["c1", "c2"] {
        register(&fleet, &a, name).await;
    }
    for candidate in [&b, &c] {
        candidate.follows(&a, PATIENCE).await;
        assert_eq!(candidate.call("GET", "/ready").send().await.status, 200, "it hands on");
        assert_eq!(candidate.call("GET", "/leader").send().await.status, 503);
    }
    let endpoints: Vec<[&str; 1]> = members.iter().map(|member| [member.url()]).collect();
    let endpoints: Vec<&[&str]> = endpoints.iter().map(|urls| &urls[..]).collect();
    let load = Load::start(&fleet, &endpoints, &["c1", "c2"], Duration::from_millis(20));
    load.goes_on("load before the hand-overs", ENOUGH).await;
    for round in 0..6 {
        let (leader, next) = (members[round % 3], members[(round + 1) % 3]);
        step_down_for(&fleet, leader, next).await;
        next.leads(PATIENCE).await;
        load.goes_on(&format!("load after hand-over {round}"), ENOUGH).await;
    }
    let book = load.finish(&fleet).await;
    assert!(book.failed.is_empty(), "{:#?}", book.failed);
    assert_eq!(fleet.history().await.len(), 7);
    fleet.memories_agree(&[&b, &c]).await;
}

/// Starts a member on a port of its own choice, so that a replacement has the old one's address.
fn at_port<'f>(fleet: &'f Fleet, name: &str, port: u16) -> ControllerOptions<'f> {
    long(fleet, name).port(port)
}

/// Rolling restarts of the whole fleet, again and again: SIGTERM, and a replacement under the same address. The clients know
/// both addresses and move on only when a connection is refused.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_fail_no_request_of_a_client_with_two_endpoints() {
    let Some(fleet) = Fleet::start("restarts_fail_no_request_of_a_client_with_two_endpoints").await else { return };
    let ports = [free_port(), free_port()];
    let mut members: Vec<Controller> = Vec::new();
    members.push(at_port(&fleet, "m0", ports[0]).start_leader().await);
    members.push(at_port(&fleet, "m1", ports[1]).start().await);
    members[1].follows(&members[0], PATIENCE).await;
    for name in ["c1", "c2"] {
        register(&fleet, &members[0], name).await;
    }
    let urls: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let endpoints: [&[&str]; 2] = [&[&urls[0], &urls[1]], &[&urls[1], &urls[0]]];
    let load = Load::start(&fleet, &endpoints, &["c1", "c2"], Duration::from_millis(20));
    load.goes_on("load before the restarts", ENOUGH).await;
    for round in 0..6 {
        let (old, other) = (round % 2, (round + 1) % 2);
        members[old].process.terminate();
        assert_eq!(members[old].process.exit_code(PATIENCE).await, 0);
        members[other].leads(PATIENCE).await;
        members[old] = at_port(&fleet, &format!("r{round}"), ports[old]).start().await;
        members[old].follows(&members[other], PATIENCE).await;
        load.goes_on(&format!("load after restart {round}"), ENOUGH).await;
    }
    // A candidate's restart is nobody's business either.
    members[1].process.terminate();
    assert_eq!(members[1].process.exit_code(PATIENCE).await, 0);
    load.goes_on("load after a candidate's end", ENOUGH).await;
    let book = load.finish(&fleet).await;
    assert!(book.failed.is_empty(), "{:#?}", book.failed);
}

/// The leader is killed while others hand requests on to it: what was on its way may be unknown, all else is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_leaves_only_what_was_on_its_way() {
    let Some(fleet) = Fleet::start("a_killed_leader_leaves_only_what_was_on_its_way").await else { return };
    let a = long(&fleet, "a").start_leader().await;
    let (b, c) = (long(&fleet, "b").start().await, long(&fleet, "c").start().await);
    for name in ["c1", "c2"] {
        register(&fleet, &a, name).await;
    }
    b.follows(&a, PATIENCE).await;
    c.follows(&a, PATIENCE).await;
    let load = Load::start(&fleet, &[&[b.url()], &[c.url()]], &["c1", "c2"], Duration::from_millis(10));
    load.goes_on("load before the crash", ENOUGH).await;
    a.process.kill().await;
    load.goes_on("load after the crash", ENOUGH).await;
    let book = load.finish(&fleet).await;
    let unknown = |line: &String| line.starts_with("PUT") && line.contains(" 503 ") && line.contains("outcome_unknown");
    let others: Vec<_> = book.failed.iter().filter(|line| !unknown(line)).collect();
    assert!(others.is_empty(), "{others:#?}");
    // Whoever has lost one asks for a sign of life before it sends the next.
    assert!(book.failed.len() <= 4, "one write of each writer was on its way: {:#?}", book.failed);
}
