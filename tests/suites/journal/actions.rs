//! What is done once: under a generation of its own, by whoever leads, and told in the journal.

use std::time::Duration;

use pgfleet_api::agent::{ComputeState, ReportAccepted, TerminateMode};
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::controller::Role;
use pgfleet_api::explain::ExplainCode;
use pgfleet_api::{ErrorCode, Generation, Term};
use pgfleet_clients::controller::ControllerError;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::{marked, orders};
use pgfleet_harness::wait::{stays, wait_until};
use serde_json::json;

use super::fake::Fake;
use super::{applied, asked, converge, explained, seen_as};

/// Ended once, with who and why; started again, it runs, and nobody ends it a second time.
#[tokio::test(flavor = "multi_thread")]
async fn terminate_ends_once() {
    let Some(fleet) = Fleet::start("terminate_ends_once").await else { return };
    let a = fleet.controller("a").probe_interval("200ms").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    converge(&client, &agent, orders()).await;
    let accepted = client.because(Some("moves house")).terminate(&agent.id, TerminateMode::Fast).await.unwrap();
    assert_eq!(accepted.generation, Generation(2));
    seen_as(&client, &agent, ComputeState::Terminated).await;
    assert_eq!(agent.postmaster_pid(), None);
    assert_eq!(agent.status().await.unwrap().generation, Some(Generation(2)), "its agent has heard of the generation");
    wait_until("it is written down as done", PATIENCE, async || {
        client.get(&agent.id).await.unwrap().policy.pending.is_none()
    })
    .await;
    explained(&client, "c1", ExplainCode::Ended).await;
    let journal = asked(&client, "c1").await;
    let ops: Vec<_> = journal.iter().map(|(op, ..)| op.as_str()).collect();
    assert_eq!(ops, ["terminated", "terminate", "register"]);
    assert_eq!((journal[1].2.as_deref(), journal[0].1.as_str()), (Some("moves house"), "controller"));

    agent.call("POST", "/terminate?mode=immediate").send().await;
    assert_eq!(agent.process.exit_code(PATIENCE).await, 0);
    let again = fleet.agent("c1").after(&agent).start().await;
    again.runs(Generation(2)).await;
    seen_as(&client, &again, ComputeState::Running).await;
    stays("running", Duration::from_secs(1), async || again.status().await.unwrap().status == ComputeState::Running)
        .await;
}

/// Immediately: the agent's process ends as well, and that is its answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_end_takes_the_agent_with_it() {
    let Some(fleet) = Fleet::start("an_immediate_end_takes_the_agent_with_it").await else { return };
    let a = fleet.controller("a").probe_interval("200ms").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    converge(&client, &agent, marked("first")).await;
    client.terminate(&agent.id, TerminateMode::Immediate).await.unwrap();
    assert_eq!(agent.process.exit_code(PATIENCE).await, 0);
    seen_as(&client, &agent, ComputeState::Terminated).await;
    wait_until("done", PATIENCE, async || client.get(&agent.id).await.unwrap().policy.pending.is_none()).await;
}

/// The leader that took the wish is killed before it did anything: the next one does it.
#[tokio::test(flavor = "multi_thread")]
async fn an_action_outlives_its_leader() {
    let Some(fleet) = Fleet::start("an_action_outlives_its_leader").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    converge(&fleet.client(&[&a]), &agent, marked("first")).await;
    let b = fleet.controller("b").pause_at("before_push").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    let client = fleet.client(&[&a, &b]);
    client.end_and_delete(&agent.id).await.unwrap();
    b.process.paused_at("before_push").await;
    let pending = client.get(&agent.id).await.unwrap().policy.pending;
    assert_eq!(pending.map(|pending| pending.generation), Some(Generation(2)));
    b.process.kill().await;
    a.is(Role::Leader, PATIENCE).await;
    wait_until("it is forgotten", PATIENCE, async || {
        matches!(client.get(&agent.id).await, Err(ControllerError::Refused { status: 404, .. }))
    })
    .await;
    agent.shows("ended", PATIENCE, |status| status.status == ComputeState::Terminated).await;
    let ops: Vec<_> = asked(&client, "c1").await.into_iter().map(|(op, who, _)| (op, who == "controller")).collect();
    assert_eq!(ops[..2], [("delete".to_owned(), true), ("delete".to_owned(), false)]);
}

/// The same content under another generation, also of a spec that was given up; and what cannot be asked for.
#[tokio::test(flavor = "multi_thread")]
async fn refresh_applies_again() {
    let Some(fleet) = Fleet::start("refresh_applies_again").await else { return };
    let a = fleet.controller("a").probe_interval("200ms").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    converge(&client, &agent, orders()).await;
    let before = client.get(&agent.id).await.unwrap();
    assert_eq!(client.refresh(&agent.id).await.unwrap().generation, Generation(2));
    applied(&client, &agent).await;
    let after = client.get(&agent.id).await.unwrap();
    assert_eq!((after.generation, &after.spec_hash), (Generation(2), &before.spec_hash));

    let mut bad = marked("bad");
    bad["cluster"]["settings"][0] = json!({"name": "work_mem", "value": "many", "vartype": "string"});
    client.put_spec(&agent.id, &bad, None).await.unwrap();
    explained(&client, "c1", ExplainCode::Rejected).await;
    assert_eq!(client.refresh(&agent.id).await.unwrap().generation, Generation(4));
    agent
        .shows("generation 4 given up as well", PATIENCE, |status| status.rejected_generation == Some(Generation(4)))
        .await;

    let bare = RegisterCompute { agent_url: agent.url().to_owned(), labels: Default::default(), spec: None };
    let id = "bare".parse().unwrap();
    client.register(&id, &bare).await.unwrap();
    let token = fleet.keys().scope(pgfleet_api::auth::Scope::Infra);
    for (method, path) in [("POST", "bare/refresh"), ("POST", "bare/terminate"), ("DELETE", "bare?terminate=true")] {
        let call = a.call(method, &format!("/control/v1/compute/{path}")).token(&token);
        assert_eq!(call.send().await.refusal(), (409, ErrorCode::NoSpec), "{path}");
    }
    let call = a.call("POST", "/control/v1/compute/bare/terminate?mode=slow").token(&token);
    assert_eq!(call.send().await.refusal(), (422, ErrorCode::InvalidRequest));
}

/// An agent that reports by itself is seen as it is long before its turn.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reports_its_changes() {
    let Some(fleet) = Fleet::start("an_agent_reports_its_changes").await else { return };
    let a = fleet.controller("a").probe_interval("600s").start_leader().await;
    let client = fleet.client(&[&a]);
    let reporting = ["--report", "-p", a.url()];
    let agent = fleet.agent("c1").token(&fleet.keys().compute("c1")).args(&reporting).start().await;
    converge(&client, &agent, marked("first")).await;
    let ended = agent.call("POST", "/terminate").send().await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    seen_as(&client, &agent, ComputeState::Terminated).await;
}

/// A report is a hint: the agent is asked at once, and what it says is believed. A token of another compute is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_brings_a_probe() {
    let Some(fleet) = Fleet::start("a_report_brings_a_probe").await else { return };
    // So slow a sweep that nothing comes from it.
    let a = fleet.controller("a").probe_interval("600s").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    converge(&client, &agent, marked("first")).await;
    let ended = agent.call("POST", "/terminate").send().await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    let status = agent.status().await.unwrap();
    let report = |status_seq: u64| {
        let body = json!({"boot_id": status.boot_id, "status_seq": status_seq, "state": "terminated"}).to_string();
        Call::new("POST", format!("{}/control/v1/compute/c1/report", b.url())).body(body)
    };
    // Soon after the first spec the leader looks once more by itself; so this is about a change that no look can have shown.
    let (seen, news) = (report(status.status_seq), report(status.status_seq + 1));
    let stranger = news.clone().token(&fleet.keys().compute("c2")).send().await;
    assert_eq!(stranger.refusal(), (403, ErrorCode::Forbidden));
    let answer = news.token(&fleet.keys().compute("c1")).send().await;
    assert_eq!(
        (answer.status, answer.json()),
        (202, ReportAccepted { term: Term(1), known: false }),
        "{}",
        answer.body
    );
    seen_as(&client, &agent, ComputeState::Terminated).await;
    let again: ReportAccepted = seen.token(&fleet.keys().compute("c1")).send().await.json();
    assert!(again.known);
}

/// A fleet in which nothing happens is asked again and again. Found by a measurement: an agent that fell due in the moment
/// between two looks at the clock stopped the prober, until something else happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_fleet_is_asked_for_ever() {
    let Some(fleet) = Fleet::start("a_quiet_fleet_is_asked_for_ever").await else { return };
    let a = fleet.controller("a").probe_interval("2ms").start_leader().await;
    let (client, agents) = (fleet.client(&[&a]), Fake::start().await);
    for n in 0..3 {
        let id = format!("c{n}").parse().unwrap();
        let body = RegisterCompute { agent_url: agents.url(&id), labels: Default::default(), spec: None };
        client.register(&id, &body).await.unwrap();
    }
    let mut asked = 0;
    wait_until("all are asked hundreds of times", PATIENCE, async || {
        asked += agents.take_calls().len();
        asked >= 2000
    })
    .await;
}
