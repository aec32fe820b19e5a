//! Rows that depend on what went before: the first fence, a life without one, a failure, an end, the next life.

use std::time::Duration;

use pgfleet_api::agent::{AgentStatus, ComputeState};
use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::{Group, Script};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::wait::wait_until;
use serde_json::{Value, json};

use crate::pair::Pair;
use crate::row::{Row, fence, push, spec};

/// An agent that has no ledger yet meets fences.
pub fn first_fence() -> Vec<Row> {
    let own = "sim-3".parse().unwrap();
    let mut wrong = fence(&own, 1, 1, 'a');
    wrong.compute_id = "other".parse().unwrap();
    let end = |name: &str, body: &Value| Row::new(name, "POST", "/terminate").json(body);
    let promote = json!({"spec": spec("first"), "fence": fence(&own, 1, 1, 'a'), "wal_flush_lsn": "0/0"});
    vec![
        push("a fence of another compute, before the first", &wrong, &spec("first")),
        end("an end with a fence of another compute, before the first", &json!({"fence": wrong})),
        end("an end with a fence that it does not know", &json!({"fence": fence(&own, 1, 1, 'a')})),
        Row::new("idle before it began", "POST", "/terminate?if_idle_ms=0"),
        Row::new("a promotion of nothing", "POST", "/promote").json(&promote),
        push("the first fence brings a bad spec", &fence(&own, 3, 3, 'a'), &json!({})),
        push("the same again", &fence(&own, 3, 3, 'a'), &json!({})),
        push("a good spec under the same fence", &fence(&own, 3, 3, 'a'), &spec("first")),
        Row::new("a spec without a fence", "POST", "/spec").json(&spec("first")),
        Row::new("the same by /configure", "POST", "/configure").json(&json!({"spec": spec("first")})),
        push("a fence that leads on", &fence(&own, 3, 4, 'a'), &spec("first")),
        push("again", &fence(&own, 3, 4, 'a'), &spec("first")),
        push("a higher term alone", &fence(&own, 4, 4, 'a'), &spec("first")),
        push("a higher term with a bad spec", &fence(&own, 5, 5, 'a'), &json!({})),
        push("what was before", &fence(&own, 4, 4, 'a'), &spec("first")),
        push("fields that nobody acts on", &fence(&own, 5, 6, 'a'), &ignored()),
    ]
}

fn ignored() -> Value {
    let mut spec = spec("ignored");
    spec["from_the_future"] = json!({"x": 1});
    spec["cluster"]["more"] = json!(1);
    spec
}

/// A life without a fence, until one comes; then the end.
pub async fn unfenced(pair: &mut Pair<'_>) {
    let own = pair.own.clone();
    let bare = |name: &str, mark: &str| Row::new(name, "POST", "/spec").json(&spec(mark));
    pair.play(vec![
        bare("a bare spec", "one"),
        bare("the same again", "one"),
        bare("another", "two"),
        Row::new("one by /configure", "POST", "/configure").json(&json!({"spec": spec("three")})),
        Row::new("a bad one", "POST", "/spec").json(&json!({"cluster": 1})),
        Row::new("an end with a fence, that it never had", "POST", "/terminate")
            .json(&json!({"fence": fence(&own, 1, 1, 'a')})),
        Row::new("not idle for so long", "POST", "/terminate?if_idle_ms=1000000000000").differs(&["/msg", "/error"]),
        push("the first fence", &fence(&own, 1, 1, 'a'), &spec("four")),
        bare("a bare one after it", "five"),
    ])
    .await;
    let lsn: &[&str] = &["/lsn"];
    let end = |name: &str, query: &str| Row::new(name, "POST", &format!("/terminate{query}"));
    pair.play(vec![
        end("an end with a stale fence", "").json(&json!({"fence": fence(&own, 0, 1, 'a')})),
        end("an end with other content", "").json(&json!({"fence": fence(&own, 1, 1, 'b')})),
        end("the end", "").json(&json!({"fence": fence(&own, 1, 1, 'a')})).differs(lsn),
        end("again", "?mode=fast").differs(lsn),
        end("again if idle", "?if_idle_ms=1000000000000").differs(lsn),
        push("a spec after the end", &fence(&own, 2, 2, 'a'), &spec("six")),
        push("a stale one after the end", &fence(&own, 0, 0, 'a'), &spec("six")),
        bare("a bare one after the end", "six"),
        Row::new("a plan after the end", "POST", "/plan").json(&spec("six")),
        Row::new("a promotion after the end", "POST", "/promote")
            .json(&json!({"spec": spec("six"), "fence": fence(&own, 2, 2, 'a'), "wal_flush_lsn": "0/0"})),
        Row::new("statements after the end", "GET", "/insights"),
        Row::new("a write after the end", "POST", "/check_writability"),
        Row::new("roles after the end", "GET", "/dbs_and_roles"),
    ])
    .await;
    // Answered, and then both processes are gone.
    let last = end("at once", "?mode=immediate").differs(lsn);
    pair.send_last(&last).await;
    for url in [pair.real.url(), pair.simulated()] {
        wait_until(&format!("{url} is gone"), Duration::from_secs(20), async || {
            let call = pgfleet_harness::http::Call::new("GET", format!("{url}/status"));
            call.limit(Duration::from_secs(2)).try_send().await.is_err()
        })
        .await;
    }
}

/// A spec that cannot be applied, what leads out of it, and the next life.
pub async fn failure(pair: &mut Pair<'_>, fleet: &Fleet, sim: &Sim) {
    let own = pair.own.clone();
    let why: &[&str] = &["/msg", "/error"];
    let failing = |failing: f64| {
        let group = Group { from: pair.n, to: Some(pair.n + 1), failing, ..Group::default() };
        Script { seed: 1, groups: vec![group] }
    };
    let (fails, works) = (failing(1.0), failing(0.0));
    pair.send(&push("a good one", &fence(&own, 1, 1, 'a'), &spec("good"))).await;
    sim.script(&fails).await;
    let mut bad = spec("bad");
    bad["cluster"]["databases"] = json!([{"name": "d", "owner": "nobody_has_this_name", "options": null}]);
    // A real one reports what else is in effect; the generation counts as rejected at both.
    pair.send(&push("one that fails", &fence(&own, 1, 2, 'a'), &bad).differs(why)).await;
    pair.send(&push("again", &fence(&own, 1, 2, 'a'), &bad).differs(&["/error", "/error_detail", "/failures"])).await;
    sim.script(&works).await;
    pair.send(&push("one that leads on", &fence(&own, 1, 3, 'a'), &spec("better"))).await;
    sim.script(&fails).await;
    pair.send(&push("one more that fails", &fence(&own, 1, 4, 'a'), &bad).differs(why)).await;
    sim.script(&works).await;

    let before = boots(pair).await;
    pair.real.process.terminate();
    pair.real.process.exit_code(Duration::from_secs(30)).await;
    pair.real = fleet.agent(pair.own.as_str()).after(&pair.real).start().await;
    sim.restart(pair.n, pair.n + 1).await;
    for url in [pair.real.url(), pair.simulated()] {
        wait_until(&format!("{url} runs again"), Duration::from_secs(30), async || {
            status(pair, url).await.status == ComputeState::Running
        })
        .await;
    }
    let after = boots(pair).await;
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "a new life has a new boot id");
    pair.send(&Row::new("the next life", "GET", "/status").differs(&["/error", "/error_detail", "/failures"])).await;
    pair.send(&push("what was rejected, in the next life", &fence(&own, 1, 4, 'a'), &bad)).await;
    pair.send(&push("what is stale in the next life", &fence(&own, 0, 9, 'a'), &bad)).await;
    pair.send(&push("what leads on in the next life", &fence(&own, 2, 5, 'a'), &spec("last"))).await;
}

async fn status(pair: &Pair<'_>, url: &str) -> AgentStatus {
    let answer = pair.ask(url, &Row::new("status", "GET", "/status")).await;
    serde_json::from_str(&answer.body).unwrap()
}

async fn boots(pair: &Pair<'_>) -> Vec<pgfleet_api::BootId> {
    vec![status(pair, pair.real.url()).await.boot_id, status(pair, pair.simulated()).await.boot_id]
}
