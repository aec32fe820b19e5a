//! Agents that are slow, fail, come and go.

use std::time::{Duration, Instant};

use pgfleet_api::agent::AgentStatus;
use pgfleet_fleet_sim::script::{Away, Flapping, Group, Latency, Script};
use pgfleet_harness::http::Call;
use pgfleet_harness::wait::wait_until;

use crate::Dir;
use crate::bare::{Kept, push};

const LIMIT: Duration = Duration::from_secs(20);

fn script(group: Group) -> Script {
    Script { seed: 3, groups: vec![group] }
}

#[tokio::test]
async fn who_vanishes_resets_his_connections_and_returns_with_his_ledger() {
    let dir = Dir::new();
    let sim = dir.sim(20, &Script::default(), &[]).await;
    let mut kept = Kept::new(100);
    for n in 0..20 {
        assert_eq!(kept.ask(&sim.url(n), "POST", "/configure", &push(n, 1)).await.unwrap().status, 202);
    }
    sim.script(&script(Group { from: 5, to: Some(15), away: Some(Away::Reset), ..Group::default() })).await;
    wait_until("ten connections are reset", LIMIT, async || sim.counters().await.connections.now == 10).await;
    for n in 0..20 {
        // First the connection that was open, then a new one.
        let answers =
            [kept.ask(&sim.url(n), "GET", "/status", "").await, kept.ask(&sim.url(n), "GET", "/status", "").await];
        let gone = (5..15).contains(&n);
        assert!(answers.iter().all(|answer| answer.is_err() == gone), "agent {n}");
    }
    let counters = sim.counters_of(5, 15).await;
    assert_eq!((counters.range.probes, counters.range.connects), (0, 20), "asked while they were away");
    assert_eq!(counters.connections.turned_away, 10);
    sim.script(&Script::default()).await;
    let answer = kept.ask(&sim.url(7), "GET", "/status", "").await.unwrap();
    let status: AgentStatus = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(status.applied_generation.map(|generation| generation.get()), Some(1));
}

#[tokio::test]
async fn who_stands_still_answers_when_he_goes_on() {
    let dir = Dir::new();
    let sim = dir.sim(2, &script(Group { away: Some(Away::Silent), ..Group::default() }), &[]).await;
    let url = sim.url(1);
    let mut kept = Kept::new(1);
    let asked = kept.ask(&url, "GET", "/status", "");
    let mut asked = std::pin::pin!(asked);
    let early = tokio::time::timeout(Duration::from_millis(300), asked.as_mut()).await;
    assert!(early.is_err(), "it answered while it stood still");
    let mut given_up = Kept::new(1);
    let other = sim.url(0);
    let impatient = tokio::time::timeout(Duration::from_millis(50), given_up.ask(&other, "GET", "/status", ""));
    assert!(impatient.await.is_err());
    wait_until("one that is not waited for is let go", LIMIT, async || sim.counters().await.connections.now == 1).await;
    sim.script(&Script::default()).await;
    let answer = tokio::time::timeout(LIMIT, asked).await.unwrap().unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_slow_are_slow_and_the_failing_fail() {
    let dir = Dir::new();
    let slow = Group { from: 1, to: Some(2), answer: Latency::UniformMs(300.0, 400.0), ..Group::default() };
    let failing = Group { from: 2, to: Some(3), failing: 1.0, ..Group::default() };
    let cut = Group { from: 3, cut: 1.0, ..Group::default() };
    let sim = dir.sim(4, &Script { seed: 0, groups: vec![slow, failing, cut] }, &[]).await;
    let mut kept = Kept::new(9);
    let begun = Instant::now();
    kept.ask(&sim.url(1), "GET", "/status", "").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    kept.ask(&sim.url(2), "POST", "/configure", &push(2, 1)).await.unwrap();
    wait_until("it failed", LIMIT, async || sim.counters().await.range.failed == 1).await;
    let line = sim.lines(2, 3).await.remove(0);
    assert!(line.fails && line.applied.is_none() && line.state.as_str() == "failed", "{line:?}");
    assert!(kept.ask(&sim.url(3), "GET", "/status", "").await.is_err());
    assert_eq!(sim.counters().await.connections.cut, 1);
}

#[tokio::test]
async fn who_flaps_comes_and_goes() {
    let dir = Dir::new();
    let flapping = Flapping { share: 1.0, up_ms: 200, down_ms: 200 };
    let sim = dir.sim(1, &script(Group { flapping: Some(flapping), ..Group::default() }), &[]).await;
    let mut kept = Kept::new(1);
    for there in [true, false, true, false] {
        wait_until(if there { "it came" } else { "it went" }, LIMIT, async || {
            kept.ask(&sim.url(0), "GET", "/status", "").await.is_ok() == there
        })
        .await;
    }
    wait_until("it came", LIMIT, async || kept.ask(&sim.url(0), "GET", "/status", "").await.is_ok()).await;
    wait_until("the connection is reset", LIMIT, async || sim.counters().await.connections.now == 0).await;
}

#[tokio::test]
async fn counting_begins_anew_and_agents_forget() {
    let dir = Dir::new();
    let sim = dir.sim(3, &Script::default(), &[]).await;
    let mut kept = Kept::new(3);
    kept.ask(&sim.url(0), "POST", "/configure", &push(0, 7)).await.unwrap();
    kept.ask(&sim.url(1), "POST", "/configure", &push(0, 7)).await.unwrap();
    let range = sim.counters().await.range;
    assert_eq!((range.pushes, range.accepted, range.refused.get("wrong_compute")), (2, 1, Some(&1)));
    sim.reset().await;
    let range = sim.counters().await.range;
    assert_eq!((range.pushes, range.first_push_unix_ms, range.states.get("empty")), (0, None, Some(&2)));
    sim.forget().await;
    let lines = sim.lines(0, 3).await;
    assert!(lines.iter().all(|line| line.generation.is_none()), "{lines:?}");
    wait_until("their connections are reset", LIMIT, async || sim.counters().await.connections.now == 0).await;
    // An older generation is the first one to who has forgotten.
    assert_eq!(kept.ask(&sim.url(2), "POST", "/configure", &push(2, 1)).await.unwrap().status, 202);
}

#[tokio::test]
async fn a_script_that_makes_no_sense_is_refused_and_the_old_one_goes_on() {
    let dir = Dir::new();
    let playing = script(Group { failing: 0.5, ..Group::default() });
    let sim = dir.sim(1, &playing, &[]).await;
    for (body, status, path) in [
        (r#"{"groups": [{"failing": 2}]}"#, 422, "groups[0].failing"),
        (r#"{"groups": [{"typo": 2}]}"#, 422, "groups[0].typo"),
        (r#"{"groups": [{"away": "dead"}]}"#, 422, "groups[0].away"),
        ("{", 400, ""),
    ] {
        let answer = Call::new("PUT", format!("{}/sim/script", sim.control())).body(body).send().await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert_eq!(answer.error().path.unwrap_or_default(), path, "{}", answer.body);
    }
    let still: Script = Call::new("GET", format!("{}/sim/script", sim.control())).send().await.json();
    assert_eq!(still, playing);
    let answer = Call::new("GET", format!("{}/sim/counters?from=x", sim.control())).send().await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}
