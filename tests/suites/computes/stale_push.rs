//! A push of an old leader meets the agent's ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgfleet_api::controller::Role;
use pgfleet_api::{ErrorCode, Fence, FenceMark, Generation, SpecText, Term};
use pgfleet_clients::agent::{AgentClient, AgentTimeouts};
use pgfleet_clients::token::{Grant, Source};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::{stays, wait_for, wait_until};

use super::{applied, register};

/// The old leader stands before its push and believes in its lease for another minute; the row says a second, so the new
/// one claims without it and pushes. Then the old one goes on: its push arrives, the agent answers 409 and stays where it
/// is; nothing the agent ever shows goes back in (term, generation).
#[tokio::test(flavor = "multi_thread")]
async fn stale_push_refused() {
    let Some(fleet) = Fleet::start("stale_push_refused").await else { return };
    // No renewal and no probe of the old leader comes between: the first that it hears of its end is the agent's answer.
    let a = fleet.controller("a").rejecting().lease("60s", "20s").probe_interval("60s").pause_at("before_push");
    let a = a.start_leader().await;
    let agent = fleet.agent("c1").start().await;
    register(&fleet.client(&[&a]), &agent, Some(marked("old"))).await;
    a.process.paused_at("before_push").await;
    a.process.freeze().await;

    let watched = Arc::new(AtomicBool::new(true));
    let mut watching = tokio::task::JoinSet::new();
    let (call, go_on) = (agent.call("GET", "/status").limit(Duration::from_secs(2)), watched.clone());
    watching.spawn(async move {
        let mut seen = Vec::new();
        while go_on.load(Ordering::SeqCst) {
            if let Ok(answer) = call.try_send().await {
                let status: pgfleet_api::agent::AgentStatus = answer.json();
                seen.push((status.term, status.generation, status.applied_generation));
            }
        }
        seen
    });

    fleet.database().await.execute("UPDATE leader SET lease_ms = 1000", &[]).await.unwrap();
    let b = fleet.controller("b").start().await;
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    let client = fleet.client(&[&b]);
    applied(&client, &agent).await;
    client.put_spec(&agent.id, &marked("new"), None).await.unwrap();
    applied(&client, &agent).await;
    let before = agent.runs(Generation(2)).await;
    assert_eq!(before.term, Some(Term(2)));

    a.process.go_on();
    a.process.thaw();
    let counted = async |url: &str, metric: &str, label: &str| {
        let page = Call::new("GET", format!("{url}/metrics")).send().await.body;
        let line = page.lines().find(|line| line.starts_with(metric) && line.contains(label));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    wait_until("the old leader hears that its push was refused as stale", PATIENCE, async || {
        counted(a.url(), "storage_controller_agent_pushes_total", "outcome=\"stale\"").await >= 1.0
    })
    .await;
    let refused = counted(agent.url(), "compute_ctl_refusals_total", "reason=\"stale_term\"").await;
    assert!(refused >= 1.0, "the agent refused it for its term");
    stays("the agent's content is the new leader's", Duration::from_millis(500), async || {
        let now = agent.status().await.unwrap();
        (now.term, now.generation, now.applied_generation, &now.spec_hash)
            == (before.term, before.generation, before.applied_generation, &before.spec_hash)
    })
    .await;
    // A write of the old leader tells it what happened.
    let write =
        a.call("PUT", "/control/v1/compute/c1/spec").token(&fleet.keys().scope(pgfleet_api::auth::Scope::Infra));
    let answer = write.body(marked("zombie").to_string()).send().await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    a.is(Role::Candidate, PATIENCE).await;

    watched.store(false, Ordering::SeqCst);
    let seen = watching.join_next().await.unwrap().unwrap();
    assert!(seen.is_sorted(), "(term, generation, applied) went back: {seen:?}");
    assert!(seen.len() > 10, "it was looked at");
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
}

/// What the agent says to a fence of the past, of another fleet, and of another compute.
#[tokio::test(flavor = "multi_thread")]
async fn stale_fences_are_told_the_highest() {
    let Some(fleet) = Fleet::start("stale_fences_are_told_the_highest").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    register(&fleet.client(&[&a]), &agent, Some(marked("one"))).await;
    applied(&fleet.client(&[&a]), &agent).await;
    let b = fleet.controller("b").as_candidate().start_leader().await;
    let client = fleet.client(&[&b]);
    client.put_spec(&agent.id, &marked("two"), None).await.unwrap();
    applied(&client, &agent).await;
    let highest = FenceMark { term: Term(2), generation: Generation(2) };
    wait_for("the agent knows the new term", PATIENCE, async || {
        agent.status().await.filter(|status| status.term == Some(Term(2)))
    })
    .await;

    let row = fleet.database().await.query_one("SELECT cluster_id::text FROM cluster", &[]).await.unwrap();
    let fence = |term, generation, mark| Fence {
        cluster_id: row.get::<_, String>(0).parse().unwrap(),
        compute_id: agent.id.clone(),
        term: Term(term),
        generation: Generation(generation),
        spec_hash: pgfleet_domain::spec::spec_hash(&marked(mark)),
    };
    let foreign = Fence { cluster_id: pgfleet_api::ClusterId::generate(), ..fence(9, 9, "x") };
    let other = Fence { compute_id: "c2".parse().unwrap(), ..fence(9, 9, "x") };
    let rows = [
        (fence(1, 3, "x"), "x", 409, ErrorCode::StaleTerm),
        (fence(2, 1, "one"), "one", 409, ErrorCode::StaleGeneration),
        (fence(2, 2, "x"), "x", 409, ErrorCode::FenceConflict),
        (foreign, "x", 409, ErrorCode::ForeignCluster),
        (other, "x", 421, ErrorCode::WrongCompute),
    ];
    let tokens = Source::Fixed(fleet.keys().token(&Grant::agent_admin()));
    let agents = AgentClient::new(tokens, AgentTimeouts::default()).unwrap();
    for (fence, mark, status, code) in rows {
        let error = agents.configure(agent.url(), &SpecText::from(marked(mark)), &fence).await.unwrap_err();
        let refusal = error.refusal().unwrap_or_else(|| panic!("{code:?}: {error:?}"));
        assert_eq!(refusal.code, code, "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        if matches!(code, ErrorCode::StaleTerm | ErrorCode::StaleGeneration) {
            assert_eq!(error.highest(), Some(highest), "{code:?}");
        }
    }
    // The same again is nothing new.
    let seq = agent.status().await.unwrap().status_seq;
    let status = agents.configure(agent.url(), &SpecText::from(marked("two")), &fence(2, 2, "two")).await.unwrap();
    assert_eq!((status.generation, status.status_seq), (Some(Generation(2)), seq));
    agent.runs(Generation(2)).await;
}
