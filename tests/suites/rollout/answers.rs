//! What is refused, and how; what is said of computes that are left out; starting twice; a dry run.

use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::policy::{Mode, PutPolicy};
use pgfleet_api::rollout::{RolloutPhase, TargetPhase};
use pgfleet_api::{ErrorBody, ErrorCode};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;
use serde_json::{Value, json};

use crate::yard::Yard;
use crate::{count, reaches, request, strategy};

async fn post(fleet: &Fleet, leader: &Controller, path: &str, body: Value) -> (u16, ErrorBody) {
    let token = fleet.keys().scope(Scope::Admin);
    let answer = leader.call("POST", path).token(&token).body(body.to_string()).send().await;
    let body =
        serde_json::from_str(&answer.body).unwrap_or_else(|_| ErrorBody::new(ErrorCode::Unknown, answer.body.clone()));
    (answer.status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_where_they_are_bad() {
    let Some(fleet) = Fleet::start("bad_requests_are_told_where_they_are_bad").await else { return };
    let leader = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&leader]);
    let _yard = Yard::open(2, Duration::from_millis(50), &client).await;
    let good = json!({"selector": {"labels": {"tier": "gold"}}, "patch": {"settings": {"work_mem": "8MB"}}});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (body, path) in [
        (with("selector", json!({"labels": {"tier": "lead"}})), "selector"),
        (with("selector", json!({})), "selector.labels"),
        (with("selector", json!({"labels": {"a": "b"}, "all": true})), "selector"),
        (with("patch", json!({})), "patch"),
        (with("patch", json!({"settings": {"work_mem": []}})), "patch.settings.work_mem"),
        (with("patch", json!({"databases": [{"name": "x"}]})), "patch"),
        (with("patch", json!({"extensions": []})), "patch.extensions"),
        (with("strategy", json!({"wave": "0%"})), "strategy.wave"),
        (with("strategy", json!({"error_budget": 5})), "strategy.error_budget"),
        (with("rollout_id", json!("a/b")), "rollout_id"),
    ] {
        let (status, error) = post(&fleet, &leader, "/control/v1/rollout", body.clone()).await;
        assert_eq!((status, error.code), (422, ErrorCode::InvalidBody), "{body} {error:?}");
        assert!(error.path.as_deref().is_some_and(|at| at.starts_with(path)), "{body}: {error:?}");
    }
    let (status, error) = post(&fleet, &leader, "/control/v1/rollout/nobody/pause", Value::Null).await;
    assert_eq!((status, error.code), (404, ErrorCode::UnknownRollout));
    let token = fleet.keys().scope(Scope::Viewer);
    let answer = leader.call("POST", "/control/v1/rollout").token(&token).body(good.to_string()).send().await;
    assert_eq!(answer.status, 403);
    assert!(client.rollouts(&Default::default()).await.unwrap().rollouts.is_empty(), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_named_and_a_start_is_done_once() {
    let Some(fleet) = Fleet::start("what_is_left_out_is_named_and_a_start_is_done_once").await else { return };
    let leader = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&leader]);
    let yard = Yard::open(2, Duration::from_millis(50), &client).await;
    let labels = || [("tier".to_owned(), "gold".to_owned())].into();
    let nowhere = || "http://127.0.0.1:9".to_owned();
    let bare = RegisterCompute { agent_url: nowhere(), labels: labels(), spec: None };
    client.register(&"a-bare".parse().unwrap(), &bare).await.unwrap();
    let away = RegisterCompute { agent_url: nowhere(), labels: labels(), spec: Some(marked("one")) };
    client.register(&"b-away".parse().unwrap(), &away).await.unwrap();
    let mut same = marked("one");
    same["cluster"]["settings"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "work_mem", "value": "8MB", "vartype": "string"}));
    let same = RegisterCompute { agent_url: nowhere(), labels: labels(), spec: Some(same) };
    client.register(&"c-same".parse().unwrap(), &same).await.unwrap();

    let paused = RegisterCompute { agent_url: nowhere(), labels: labels(), spec: Some(marked("one")) };
    client.register(&"d-paused".parse().unwrap(), &paused).await.unwrap();
    let pause = PutPolicy { mode: Some(Mode::Pause), ..PutPolicy::default() };
    client.put_policy(&"d-paused".parse().unwrap(), &pause, None).await.unwrap();

    let wanted = request("r", strategy());
    let preview = client.preview_rollout(&wanted).await.unwrap();
    let told: Vec<_> = preview
        .computes
        .iter()
        .map(|one| (one.compute_id.as_str(), one.wave, one.phase.as_str(), one.error.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        told,
        [
            ("c00", Some(0), "waiting", ""),
            ("c01", Some(1), "waiting", ""),
            ("b-away", Some(1), "waiting", "its agent was never reached"),
            ("a-bare", None, "skipped", "it has no spec"),
            ("c-same", None, "unchanged", ""),
            ("d-paused", None, "skipped", "it is paused by its policy"),
        ]
    );
    assert!(client.rollouts(&Default::default()).await.unwrap().rollouts.is_empty(), "a dry run writes nothing");
    assert_eq!(yard.generations(), [1, 1]);

    let started = client.start_rollout(&wanted, None).await.unwrap();
    assert_eq!((started.selected, started.plan.computes, count(&started, TargetPhase::Skipped)), (6, 3, 2));
    assert_eq!(started.troubles[0].error.as_deref(), Some("it has no spec"));
    let again = client.start_rollout(&wanted, None).await.unwrap();
    assert_eq!(again.created_at, started.created_at, "the same request is the same roll-out");
    let other = request("r", pgfleet_api::rollout::RolloutStrategy { soak_s: 2, ..strategy() });
    let refused = client.start_rollout(&other, None).await.unwrap_err();
    assert!(refused.to_string().contains("there is another roll-out r already"), "{refused}");
    let beside = client.start_rollout(&request("s", strategy()), None).await.unwrap_err();
    assert!(beside.to_string().contains("roll-out r is under way and has compute"), "{beside}");

    let done = reaches(&client, "r", RolloutPhase::Done).await;
    let why: Vec<_> =
        done.troubles.iter().map(|one| (one.compute_id.as_str(), one.error.as_deref().unwrap())).collect();
    assert_eq!(
        why,
        [
            ("b-away", "its agent was never reached"),
            ("a-bare", "it has no spec"),
            ("d-paused", "it is paused by its policy")
        ]
    );
    // All is so already, but for what is left out.
    let nothing = client.start_rollout(&request("s", strategy()), None).await.unwrap();
    assert_eq!((nothing.plan.computes, count(&nothing, TargetPhase::Unchanged)), (1, 3), "{nothing:?}");
    assert_eq!(client.rollouts(&Default::default()).await.unwrap().rollouts.len(), 2);
}
