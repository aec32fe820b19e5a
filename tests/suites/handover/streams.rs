//! `wait`, `watch` and `apply` on one connection, while the leader changes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream;
use pgfleet_api::auth::Scope;
use pgfleet_api::bulk::{ApplyOutcome, ApplyResult, WatchEvent};
use pgfleet_api::compute::{RegisterCompute, WaitOutcome, WaitResult};
use pgfleet_api::controller::Role;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use reqwest::{Body, Client, Response};
use serde_json::json;
use tokio::task::JoinSet;

use super::{NOBODY, get, metric, put, register, step_down_for};

/// Three members; the first leads.
async fn three(fleet: &Fleet) -> [Controller; 3] {
    let long = |name| fleet.controller(name).lease("20s", "300ms").args(&["--handover-hold", "8s"]);
    let a = long("a").start_leader().await;
    let (b, c) = (long("b").start().await, long("c").start().await);
    b.follows(&a, PATIENCE).await;
    c.follows(&a, PATIENCE).await;
    [a, b, c]
}

async fn open(fleet: &Fleet, url: &str) -> Response {
    pgfleet_clients::install_crypto_provider();
    let client = Client::builder().no_proxy().build().unwrap();
    let response = client.get(url).bearer_auth(fleet.keys().scope(Scope::Viewer)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    response
}

/// A wait begun at the leader, and one begun at a member that hands it on, both end at the next leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_crosses_a_hand_over() {
    let Some(fleet) = Fleet::start("a_wait_crosses_a_hand_over").await else { return };
    let [a, b, c] = three(&fleet).await;
    let agent = fleet.agent("c1").start().await;
    register(&fleet, &a, "c1").await;
    let mut waits = JoinSet::new();
    for (url, query) in [(a.url(), ""), (c.url(), "?generation=1"), (c.url(), "?timeout_s=60")] {
        let call = get(&fleet, url, &format!("c1/wait{query}")).limit(PATIENCE * 2);
        waits.spawn(async move { call.send().await });
    }
    wait_until("all of them wait at the leader", PATIENCE, async || {
        metric(a.url(), "storage_controller_http_requests_in_flight").await >= 4.0
    })
    .await;
    // They wait for the generation that was the current one when they began.
    assert_eq!(put(&fleet, a.url(), "c1", "second").send().await.status, 202);
    step_down_for(&fleet, &a, &b).await;
    b.leads(PATIENCE).await;
    assert!(waits.try_join_next().is_none(), "they go on");
    let body =
        RegisterCompute { agent_url: agent.url().to_owned(), labels: Default::default(), spec: Some(marked("second")) };
    fleet.client(&[&b]).register(&agent.id, &body).await.unwrap();
    while let Some(answer) = waits.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let result: WaitResult = answer.json();
        assert_eq!((result.outcome, result.generation.get()), (WaitOutcome::Applied, 1), "{result:?}");
    }
    let short = get(&fleet, c.url(), "c1/wait?generation=9&timeout_s=1").send().await;
    assert_eq!(short.json::<WaitResult>().outcome, WaitOutcome::Timeout);
}

/// Reads events until that of this change.
async fn events_until(mut response: Response, last: i64) -> Vec<WatchEvent> {
    let mut text = String::new();
    let mut events = Vec::new();
    loop {
        let chunk = tokio::time::timeout(PATIENCE, response.chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("no event {last} within {PATIENCE:?}; last: {:?}", events.last()));
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let id = event.lines().find_map(|line| line.strip_prefix("id: ")?.parse::<i64>().ok());
            if let Some(data) = data {
                let event: WatchEvent = serde_json::from_str(data).unwrap();
                assert_eq!(Some(event.change_seq), id);
                let is_last = event.change_seq >= last;
                events.push(event);
                if is_last {
                    return events;
                }
            }
            text = rest.to_owned();
        }
    }
}

async fn last_change(fleet: &Fleet) -> i64 {
    fleet.database().await.query_one("SELECT max(change_seq) FROM journal", &[]).await.unwrap().get(0)
}

/// Watchers see every line of the journal once and in order, over a hand-over and over a crash, whichever member they are
/// connected to; one that begins in the middle sees exactly the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_crosses_hand_overs() {
    let Some(fleet) = Fleet::start("a_watch_crosses_hand_overs").await else { return };
    let [a, b, c] = three(&fleet).await;
    for name in ["c1", "c2"] {
        register(&fleet, &a, name).await;
    }
    let watch = |member: &Controller, query: &str| format!("{}/control/v1/watch{query}", member.url());
    let middle = last_change(&fleet).await;
    let all = [open(&fleet, &watch(&a, "?from=0")).await, open(&fleet, &watch(&c, "?from=0")).await];
    let rest = [open(&fleet, &watch(&a, "")).await, open(&fleet, &watch(&c, "")).await];
    let write = async |url: &str, round: &str| {
        for n in 0..20 {
            for name in ["c1", "c2"] {
                let answer = put(&fleet, url, name, &format!("{round} {n}")).send().await;
                assert_eq!(answer.status, 202, "{}", answer.body);
            }
        }
    };
    write(c.url(), "before").await;
    step_down_for(&fleet, &a, &b).await;
    write(c.url(), "after a hand-over").await;
    b.leads(PATIENCE).await;
    b.process.kill().await;
    write(c.url(), "after a crash").await;
    wait_until("one of the others leads", PATIENCE, async || {
        let roles = [a.status().await, c.status().await].map(|status| status.map(|status| status.role));
        roles.contains(&Some(Role::Leader))
    })
    .await;

    let sql = "SELECT change_seq FROM journal WHERE change_seq > $1 ORDER BY change_seq";
    let last = last_change(&fleet).await;
    for (from, streams) in [(0, all), (middle, rest)] {
        let rows = fleet.database().await.query(sql, &[&from]).await.unwrap();
        let expected: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert!(expected.len() >= 120);
        for stream in streams {
            let seen: Vec<i64> = events_until(stream, last).await.iter().map(|event| event.change_seq).collect();
            assert_eq!(seen, expected, "from {from}");
        }
    }
    let events = events_until(open(&fleet, &watch(&c, &format!("?from={middle}"))).await, middle + 1).await;
    let first = &events[0];
    assert_eq!((first.kind.as_str(), first.compute_id.as_ref().map(|id| id.as_str())), ("action", Some("c1")));
    assert_eq!(first.detail["op"], "put_spec");
    let bad = c.call("GET", "/control/v1/watch?from=x").token(&fleet.keys().scope(Scope::Viewer)).send().await;
    assert_eq!(bad.status, 422, "{}", bad.body);
}

/// A bulk upsert that goes on while the leader changes: each line has one result, and what a result says is so.
#[tokio::test(flavor = "multi_thread")]
async fn an_apply_crosses_a_hand_over() {
    const LINES: u64 = 3000;
    let Some(fleet) = Fleet::start("an_apply_crosses_a_hand_over").await else { return };
    let [a, b, c] = three(&fleet).await;
    let (send, lines) = tokio::sync::mpsc::channel::<String>(8);
    let body = stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    pgfleet_clients::install_crypto_provider();
    let client = Client::builder().no_proxy().build().unwrap();
    let request = client
        .post(format!("{}/control/v1/compute/apply", c.url()))
        .bearer_auth(fleet.keys().scope(Scope::Infra))
        .body(Body::wrap_stream(body));
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        let mut response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).unwrap()
    });
    let line = |n: u64| match n % 500 {
        7 => "{\"compute_id\": \"x\"".to_owned(),
        8 => json!({"compute_id": format!("n{n}"), "unheard_of": 1}).to_string(),
        // The one before, once more.
        9 => json!({"compute_id": "same", "agent_url": NOBODY}).to_string(),
        10 => String::new(),
        _ => json!({"compute_id": format!("n{n}"), "agent_url": NOBODY, "spec": marked(&n.to_string())}).to_string(),
    };
    let written = async |count: i64| {
        let sql = "SELECT count(*) >= $1 FROM journal";
        wait_until("lines are in the database", PATIENCE, async || {
            fleet.database().await.query_one(sql, &[&count]).await.unwrap().get(0)
        })
        .await;
    };
    let hand_overs = async {
        written(500).await;
        step_down_for(&fleet, &a, &b).await;
        b.leads(PATIENCE).await;
        written(1500).await;
        step_down_for(&fleet, &b, &a).await;
    };
    // The lines keep coming, so that there is always a piece on its way.
    let lines = async {
        for n in 1..=LINES {
            send.send(line(n) + "\n").await.unwrap();
        }
        drop(send);
    };
    tokio::join!(hand_overs, lines);
    let text = tokio::time::timeout(PATIENCE * 2, sending.join_next()).await.unwrap().unwrap().unwrap();
    let results: Vec<ApplyResult> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: BTreeMap<u64, ApplyOutcome> = results.iter().map(|result| (result.line, result.outcome)).collect();
    assert_eq!(told.len(), results.len(), "one result for each line");
    for n in 1..=LINES {
        let expected = match n % 500 {
            7 | 8 => Some(ApplyOutcome::Refused),
            9 if n > 500 => Some(ApplyOutcome::Unchanged),
            10 => None,
            _ => Some(ApplyOutcome::Applied),
        };
        let result = results.iter().find(|result| result.line == n);
        assert_eq!(told.get(&n).copied(), expected, "line {n}: {result:?}");
    }
    let count =
        "SELECT count(*), count(DISTINCT (compute_id, detail->>'generation')) FROM journal WHERE kind = 'action'";
    let row = fleet.database().await.query_one(count, &[]).await.unwrap();
    let applied = told.values().filter(|outcome| **outcome == ApplyOutcome::Applied).count();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (applied as i64, applied as i64), "each once");
    assert_eq!(fleet.history().await.len(), 3);

    let dry = c.call("POST", "/control/v1/compute/apply?dry=true").token(&fleet.keys().scope(Scope::Infra));
    assert_eq!(dry.body(line(1)).send().await.status, 422, "what is not understood is not ignored");
    let stale = json!({"compute_id": "n1", "spec": marked("other"), "if_match": 9}).to_string();
    let call = c.call("POST", "/control/v1/compute/apply").token(&fleet.keys().scope(Scope::Infra));
    let result: ApplyResult = call.body(stale).limit(Duration::from_secs(20)).send().await.json();
    assert_eq!((result.outcome, result.line), (ApplyOutcome::Refused, 1));
    assert_eq!(result.error.and_then(|error| error.generation).map(|generation| generation.get()), Some(1));
}
