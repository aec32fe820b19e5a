//! The rules of the gate one by one: what is held, for how long, what is sent again, and what never is.

use std::time::{Duration, Instant};

use pgfleet_api::ErrorCode;
use pgfleet_api::controller::Role;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use tokio::task::JoinSet;

use super::{generation, get, headless, metric, put, register};

/// A candidate hands on writes and reads, with the answer's status, headers and body as the leader gave them.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_hands_on() {
    let Some(fleet) = Fleet::start("a_candidate_hands_on").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    register(&fleet, &a, "c1").await;
    let written = put(&fleet, b.url(), "c1", "through b").header("x-request-id", "mine").send().await;
    assert_eq!((written.status, written.header("etag")), (202, Some("\"2\"")), "{}", written.body);
    assert_eq!(written.header("x-request-id"), Some("mine"));
    let (through, direct) = (get(&fleet, b.url(), "c1").send().await, get(&fleet, a.url(), "c1").send().await);
    assert_eq!((through.status, through.body), (200, direct.body));
    let stale = put(&fleet, b.url(), "c1", "stale").header("if-match", "\"1\"").send().await;
    assert_eq!(stale.refusal(), (412, ErrorCode::PreconditionFailed));
    assert_eq!(stale.error().generation.map(|generation| generation.get()), Some(2));
    let nobody = get(&fleet, b.url(), "nobody").send().await;
    assert_eq!(nobody.refusal(), (404, ErrorCode::UnknownCompute));
    let tokenless = b.call("GET", "/control/v1/compute/c1").send().await;
    assert_eq!(tokenless.status, 401, "refused here, not handed on");
    let sql = "SELECT actor FROM journal WHERE compute_id = 'c1' AND kind = 'action' ORDER BY change_seq DESC LIMIT 1";
    let actor: String = fleet.database().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_ne!(actor, "controller_peer", "the journal names the client, not the member");
    assert!(metric(b.url(), "storage_controller_requests_forwarded_total").await >= 4.0);
    assert_eq!(metric(a.url(), "storage_controller_requests_forwarded_total").await, 0.0);
}

/// What came by a hop is never held and never handed on.
#[tokio::test(flavor = "multi_thread")]
async fn a_hop_is_answered_at_once() {
    let Some(fleet) = Fleet::start("a_hop_is_answered_at_once").await else { return };
    let long = |name| fleet.controller(name).lease("60s", "500ms").args(&["--handover-hold", "20s"]);
    let a = long("a").start_leader().await;
    let b = long("b").start().await;
    b.follows(&a, PATIENCE).await;
    register(&fleet, &a, "c1").await;
    let answer = put(&fleet, b.url(), "c1", "hop").header("x-pgfleet-hop", "1").send().await;
    assert_eq!(answer.refusal(), (503, ErrorCode::NoLeader));
    assert_eq!(answer.header("x-pgfleet-executed"), Some("no"));
    assert_eq!(answer.error().leader.map(|leader| leader.instance_id), Some(a.instance_id()), "who leads");
    assert_eq!(put(&fleet, a.url(), "c1", "hop").header("x-pgfleet-hop", "1").send().await.status, 202);

    b.process.kill().await;
    headless(&fleet, &a).await;
    let begun = Instant::now();
    let answer = put(&fleet, a.url(), "c1", "hop").header("x-pgfleet-hop", "1").send().await;
    assert_eq!(answer.refusal(), (503, ErrorCode::SteppedDown));
    assert!(begun.elapsed() < Duration::from_secs(10), "it was held for {:?}", begun.elapsed());
}

/// Without a leader a request waits for as long as it may, then it is refused and was not executed. All that wait together
/// take no more than they may: whoever has no place is not even read.
#[tokio::test(flavor = "multi_thread")]
async fn holding_has_limits() {
    let Some(fleet) = Fleet::start("holding_has_limits").await else { return };
    let a = fleet.controller("a").lease("60s", "500ms");
    // Nobody takes the step-down back while this looks on.
    let a = a.args(&["--step-down-revert", "40s", "--step-down-hold", "50s"]);
    let a = a.args(&["--handover-hold", "1500ms", "--hold-max-bytes", "4200000"]).start_leader().await;
    register(&fleet, &a, "c1").await;
    headless(&fleet, &a).await;
    let begun = Instant::now();
    let refused = put(&fleet, a.url(), "c1", "held").send().await;
    assert_eq!(refused.refusal(), (503, ErrorCode::SteppedDown));
    assert_eq!((refused.header("x-pgfleet-executed"), refused.header("retry-after")), (Some("no"), Some("0")));
    assert!(begun.elapsed() >= Duration::from_millis(1500), "held for {:?}", begun.elapsed());

    let mut big = marked("big");
    big["padding"] = "x".repeat(3_000_000).into();
    let mut sent = JoinSet::new();
    for _ in 0..3 {
        let call = put(&fleet, a.url(), "c1", "").body(big.to_string());
        sent.spawn(async move { call.send().await });
    }
    wait_until("one of them is held", PATIENCE, async || {
        metric(a.url(), "storage_controller_requests_held_bytes").await >= 3_000_000.0
    })
    .await;
    let (held, bytes) = (
        metric(a.url(), "storage_controller_requests_held ").await,
        metric(a.url(), "storage_controller_requests_held_bytes").await,
    );
    assert!(held <= 1.0 && bytes <= 4_200_000.0, "{held} held, {bytes} bytes");
    while let Some(answer) = sent.join_next().await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.header("x-pgfleet-executed")), (503, Some("no")), "{}", answer.body);
    }
    assert_eq!(metric(a.url(), "storage_controller_requests_held_bytes").await, 0.0);
    assert!(metric(a.url(), "storage_controller_requests_failed_total{code=\"stepped_down\"}").await >= 4.0);
    assert!(metric(a.url(), "storage_controller_requests_hold_seconds_count").await >= 1.0);
}

/// `--handover-hold 0s --no-forward`: nothing is held and nothing is handed on.
#[tokio::test(flavor = "multi_thread")]
async fn plain_rejection() {
    let Some(fleet) = Fleet::start("plain_rejection").await else { return };
    let long = |name| fleet.controller(name).lease("60s", "500ms").rejecting();
    let a = long("a").start_leader().await;
    let b = long("b").start().await;
    b.follows(&a, PATIENCE).await;
    register(&fleet, &a, "c1").await;
    assert_eq!(b.call("GET", "/ready").send().await.status, 503, "requests sent here are not served");
    for call in [put(&fleet, b.url(), "c1", "x"), get(&fleet, b.url(), "c1")] {
        let answer = call.send().await;
        assert_eq!(answer.refusal(), (503, ErrorCode::NoLeader));
        assert_eq!((answer.header("x-pgfleet-executed"), answer.header("retry-after")), (Some("no"), Some("0")));
        assert_eq!(answer.error().leader.map(|leader| leader.address), Some(a.url().to_owned()));
    }
    b.process.kill().await;
    headless(&fleet, &a).await;
    let answer = put(&fleet, a.url(), "c1", "x").send().await;
    assert_eq!(answer.refusal(), (503, ErrorCode::SteppedDown));
    assert_eq!(metric(a.url(), "storage_controller_requests_forwarded_total").await, 0.0);
}

/// What was held while a member took over is executed by it when it leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_take_over() {
    let Some(fleet) = Fleet::start("a_request_waits_for_the_take_over").await else { return };
    let long = |name| fleet.controller(name).lease("60s", "500ms").args(&["--handover-hold", "20s"]);
    let a = long("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let b = long("b").as_candidate().pause_at("after_claim").start().await;
    b.process.paused_at("after_claim").await;
    b.is(Role::TakingOver, PATIENCE).await;
    let mut sent = JoinSet::new();
    for (at, url) in [a.url(), b.url()].into_iter().enumerate() {
        let (write, read) = (put(&fleet, url, "c1", &format!("held {at}")), get(&fleet, url, "c1"));
        sent.spawn(async move { write.send().await });
        sent.spawn(async move { read.send().await });
    }
    for url in [a.url(), b.url()] {
        wait_until("both are held", PATIENCE, async || metric(url, "storage_controller_requests_held ").await == 2.0)
            .await;
    }
    b.process.go_on();
    let mut generations = Vec::new();
    while let Some(answer) = sent.join_next().await {
        let answer = answer.unwrap();
        assert!(matches!(answer.status, 200 | 202), "{} {}", answer.status, answer.body);
        if answer.status == 202 {
            generations.push(generation(&answer.body));
        }
    }
    generations.sort_unstable();
    assert_eq!(generations, [2, 3], "each was executed once");
}
