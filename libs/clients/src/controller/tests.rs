//! The client against fakes on real sockets: whom it asks, what it sends again, what it gives up on.

use super::*;
use crate::fake::{Fake, Reply};
use pgfleet_api::ErrorCode;
use serde_json::json;
use std::sync::atomic::{AtomicU32, Ordering};

fn options() -> Options {
    Options {
        deadline: Duration::from_millis(800),
        attempt: Duration::from_millis(250),
        max_pause: Duration::from_millis(20),
        ..Options::default()
    }
}

fn client(endpoints: &[&str]) -> ControllerClient {
    let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
    ControllerClient::new(endpoints, Source::Fixed("t0k3n".to_owned()), options()).unwrap()
}

fn accepted() -> Reply {
    Reply::json(202, &json!({"generation": 5, "spec_hash": "0".repeat(64), "ignored_fields": []}))
}

fn no_leader(address: Option<&str>) -> Reply {
    let leader = address
        .map(|address| json!({"instance_id": "6f1f5bd8-4d5e-4c58-8c55-0f4c2b1ad111", "term": 2, "address": address}));
    Reply::json(503, &json!({"code": "no_leader", "msg": "m", "leader": leader})).with("retry-after", "1")
}

fn id() -> ComputeId {
    "c1".parse().unwrap()
}

#[tokio::test]
async fn a_member_that_does_not_lead_sends_the_client_to_the_leader() {
    let leader = Fake::start(vec![accepted()]).await;
    let member = Fake::start(vec![no_leader(Some(&leader.url))]).await;
    let client = client(&[&member.url]);
    assert_eq!(client.put_spec(&id(), &json!({"a": 1}), None).await.unwrap().generation, Generation(5));
    let seen = leader.seen().await;
    assert!(seen[0].starts_with("PUT /control/v1/compute/c1/spec ") && seen[0].ends_with("{\"a\":1}"), "{}", seen[0]);
    client.put_spec(&id(), &json!({"a": 1}), None).await.unwrap();
    assert_eq!(member.seen().await.len(), 1, "the second request goes to the leader at once");
}

#[tokio::test]
async fn a_dead_member_and_a_hand_over_are_sat_out() {
    let dead = Fake::refusing_url().await;
    let member = Fake::start(vec![no_leader(Some(&dead)), no_leader(None), no_leader(None), accepted()]).await;
    let pauses = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&pauses);
    let on_call: Hook = Arc::new(move |call| seen.store(call.pauses, Ordering::SeqCst));
    let options = Options { on_call: Some(on_call), ..options() };
    let client = ControllerClient::new(vec![dead, member.url.clone()], Source::Anonymous, options).unwrap();
    assert!(client.put_spec(&id(), &json!({}), None).await.is_ok());
    assert!(pauses.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_rule_s_answer_is_final_and_carries_its_body() {
    let body = json!({"code": "precondition_failed", "msg": "m", "generation": 9});
    let fake = Fake::start(vec![Reply::json(412, &body)]).await;
    let error = client(&[&fake.url]).put_spec(&id(), &json!({}), Some(Generation(8))).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::PreconditionFailed));
    let seen = fake.seen().await;
    assert_eq!(seen.len(), 1);
    assert!(seen[0].contains("if-match: \"8\""), "{}", seen[0]);
}

#[tokio::test]
async fn an_unknown_outcome_is_sent_again_only_if_twice_is_once() {
    let fake = Fake::start(vec![Reply::Reset, accepted()]).await;
    assert!(client(&[&fake.url]).put_spec(&id(), &json!({}), None).await.is_ok());
    for reply in [Reply::Reset, Reply::Silence] {
        let fake = Fake::start(vec![reply.clone(), accepted()]).await;
        let error = client(&[&fake.url]).put_spec(&id(), &json!({}), Some(Generation(1))).await.unwrap_err();
        assert!(matches!(error, ControllerError::OutcomeUnknown { .. }), "{error}");
        let fake = Fake::start(vec![reply, Reply::text(204, "")]).await;
        let error = client(&[&fake.url]).delete(&id()).await.unwrap_err();
        assert!(matches!(error, ControllerError::OutcomeUnknown { .. }), "{error}");
    }
    let unknown = Reply::json(503, &json!({"code": "outcome_unknown", "msg": "m"}));
    let fake = Fake::start(vec![unknown.clone()]).await;
    let error = client(&[&fake.url]).delete(&id()).await.unwrap_err();
    assert!(matches!(error, ControllerError::OutcomeUnknown { .. }), "{error}");
    let fake = Fake::start(vec![unknown.with("x-pgfleet-executed", "no"), Reply::text(204, "")]).await;
    client(&[&fake.url]).delete(&id()).await.unwrap();
}

#[tokio::test]
async fn the_deadline_ends_it_and_names_what_was_tried() {
    let dead = Fake::refusing_url().await;
    let member = Fake::start(vec![no_leader(None)]).await;
    let error = client(&[&dead, &member.url]).get(&id()).await.unwrap_err();
    assert!(matches!(error, ControllerError::Unavailable { .. }));
    let text = error.to_string();
    assert!(text.contains(&dead) && text.contains("connection refused") && text.contains(&member.url), "{text}");
    let options = Options { deadline: Duration::from_secs(60), refused_deadline: Duration::ZERO, ..options() };
    let client_of_nobody = ControllerClient::new(vec![dead], Source::Anonymous, options).unwrap();
    let error = client_of_nobody.get(&id()).await.unwrap_err();
    assert!(
        matches!(error, ControllerError::Unavailable { waited, .. } if waited < Duration::from_secs(30)),
        "{error}"
    );
    let error = client(&[]).leader().await.unwrap_err();
    assert!(matches!(error, ControllerError::Unavailable { .. }));
}

#[tokio::test]
async fn a_refused_token_is_told_apart() {
    let fake = Fake::start(vec![Reply::json(403, &json!({"code": "forbidden", "msg": "scope"}))]).await;
    let error = client(&[&fake.url]).leader().await.unwrap_err();
    assert!(matches!(error, ControllerError::NotAllowed { status: 403, .. }), "{error}");
    assert_eq!(fake.seen().await.len(), 2, "once more after a look at the token");
}

#[tokio::test]
async fn queries_and_waits_are_spelled_as_the_contract_says() {
    let fake = Fake::start(vec![Reply::json(200, &json!({"computes": []}))]).await;
    let query = ListQuery { label: Some("team=a b".to_owned()), lagging: Some(true), ..ListQuery::default() };
    assert!(client(&[&fake.url]).list_all(&query).await.unwrap().is_empty());
    let _ = client(&[&fake.url]).wait(&id(), Some(Generation(3)), Duration::from_secs(7)).await;
    let seen = fake.seen().await;
    assert!(seen[0].starts_with("GET /control/v1/compute?label=team%3Da+b&lagging=true "), "{}", seen[0]);
    assert!(seen[1].starts_with("GET /control/v1/compute/c1/wait?generation=3&timeout_s=7 "), "{}", seen[1]);
}
