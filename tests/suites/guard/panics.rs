//! Work over one compute panics: that compute is counted, journalled, tried again from the database and at last left
//! alone; the others notice nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_api::ErrorCode;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{ComputeView, WaitOutcome};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::programs::program;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use serde_json::Value;

use super::agents::Agent;
use super::metric;

/// (actor, reason, detail) of what the journal has of a compute, but for registrations and specs.
async fn journal(fleet: &Fleet, name: &str) -> Vec<(String, Option<String>, Value)> {
    let sql = "SELECT actor, reason, detail::text FROM journal WHERE compute_id = $1 AND kind = 'action'
               AND NOT detail->>'op' IN ('register', 'put_spec') IS TRUE ORDER BY change_seq";
    let rows = fleet.database().await.query(sql, &[&name]).await.unwrap();
    let detail = |text: &str| serde_json::from_str(text).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), detail(row.get(2)))).collect()
}

async fn panics(member: &Controller, room: &str) -> (f64, f64) {
    let (compute, all) = ("storage_controller_compute_panics_total", "storage_controller_panics_total");
    (metric(member, compute, room).await, metric(member, all, room).await)
}

/// Fifty computes; the push of one panics for ever while it holds one of two places among the calls. The others converge
/// as if it was not there, and the process goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_others_notice_nothing() {
    let Some(fleet) = Fleet::start("the_others_notice_nothing").await else { return };
    let a = fleet.controller("a").panic_at("in_push:bad").args(&["--reconcile-concurrency", "2"]);
    let a = a.args(&["--panic-limit", "1000000"]).start_leader().await;
    let client = fleet.client(&[&a]);
    let bad = Agent::start("bad").await;
    bad.register(&client).await;
    wait_until("it panics", PATIENCE, async || panics(&a, "reconcile").await.0 >= 1.0).await;
    let begun = Instant::now();
    let mut good: Vec<Arc<Agent>> = Vec::new();
    for n in 0..49 {
        let agent = Agent::start(&format!("good-{n}")).await;
        agent.register(&client).await;
        good.push(agent);
    }
    for agent in &good {
        let result = client.wait(&agent.id, None, PATIENCE).await.unwrap();
        assert_eq!(result.outcome, WaitOutcome::Applied, "{}", agent.id);
        assert_eq!(agent.calls().0, 1, "{} was pushed once", agent.id);
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    wait_until("it panics again", PATIENCE, async || panics(&a, "reconcile").await.0 >= 3.0).await;
    let (of_computes, of_room) = panics(&a, "reconcile").await;
    assert!(of_room >= of_computes && of_computes >= 3.0, "{of_room} {of_computes}");
    assert_eq!((bad.calls().0, bad.generation()), (0, 0), "its push never left");
    a.process.still_runs();
    assert_eq!(metric(&a, "storage_controller_computes_quarantined", "").await, 0.0);
}

/// A pass that panicked is tried again with what the database has, not with what memory had; the journal tells it.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_tried_again_from_the_database() {
    let Some(fleet) = Fleet::start("it_is_tried_again_from_the_database").await else { return };
    // A first leader brings it to generation 1; the next one panics in its first pass over it, once.
    let first = fleet.controller("first").start_leader().await;
    let agent = Agent::start("c1").await;
    agent.register(&fleet.client(&[&first])).await;
    agent.has(1).await;
    first.process.terminate();
    assert_eq!(first.process.exit_code(PATIENCE).await, 0);
    let a = fleet.controller("a").panic_at("in_pass:c1:1").probe_interval("60s").start_leader().await;
    // Behind the back of memory, so that only a read of the database can bring it.
    let marked = marked("from the database");
    let hash = pgfleet_domain::spec::spec_hash(&marked).to_string();
    let sql = "UPDATE computes SET generation = 2, spec_hash = $1, spec = $2::text::jsonb WHERE compute_id = 'c1'";
    assert_eq!(fleet.database().await.execute(sql, &[&hash, &marked.to_string()]).await.unwrap(), 1);
    // Registered again as it was: nothing is written, and the engine looks at it.
    agent.register(&fleet.client(&[&a])).await;
    wait_until("it panics", PATIENCE, async || panics(&a, "reconcile").await.0 == 1.0).await;
    agent.has(2).await;
    assert_eq!(panics(&a, "reconcile").await, (1.0, 1.0));
    let journal = journal(&fleet, "c1").await;
    let [(actor, _, detail)] = &journal[..] else { panic!("{journal:?}") };
    assert_eq!(actor, "controller");
    assert_eq!((&detail["event"], &detail["room"]), (&Value::from("panic"), &Value::from("reconcile")));
    assert!(detail["message"].as_str().unwrap().contains("in_pass of c1"), "{detail}");
}

/// More panics than are borne: it is left alone, shows it, is tried after a pause that grows, and an operator ends it, with
/// a reason that the journal keeps.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_and_its_end() {
    let Some(fleet) = Fleet::start("a_quarantine_and_its_end").await else { return };
    // Three quarantine it, the first try is the fourth; then it is well.
    let a = fleet.controller("a").panic_at("in_pass:c1:4").probe_interval("50ms");
    let a = a.args(&["--panic-limit", "2", "--quarantine-pause", "1500ms"]).start_leader().await;
    let client = fleet.client(&[&a]);
    let agent = Agent::start("c1").await;
    agent.register(&client).await;
    let quarantined = async || metric(&a, "storage_controller_computes_quarantined", "").await;
    wait_until("it is quarantined", PATIENCE, async || quarantined().await == 1.0).await;
    let begun = Instant::now();
    agent.is_left_alone("while it is quarantined").await;
    let held = client.get(&agent.id).await.unwrap().quarantine.expect("it is shown");
    assert!(held.reason.contains("in_pass of c1") && held.next_try_at > held.since, "{held:?}");
    let listed = pgfleet(&fleet, &a, &["compute", "list"]);
    assert!(listed.contains("quarantined, next try"), "{listed}");

    // The second try is the first that goes well: it comes after 1.5 s and 3 s.
    agent.has(1).await;
    assert!(begun.elapsed() > Duration::from_secs(3), "the pauses double: {:?}", begun.elapsed());
    assert_eq!(panics(&a, "reconcile").await.0, 4.0);
    let view = client.get(&agent.id).await.unwrap();
    let held = view.quarantine.expect("a try that goes well does not end it");
    assert_eq!(held.tries, 2, "{held:?}");

    let said = pgfleet(&fleet, &a, &["compute", "unquarantine", "c1", "--reason", "fixed in the next release"]);
    assert!(said.contains("c1: not quarantined"), "{said}");
    assert_eq!(quarantined().await, 0.0);
    client.put_spec(&agent.id, &marked("two"), None).await.unwrap();
    assert_eq!(client.wait(&agent.id, None, PATIENCE).await.unwrap().outcome, WaitOutcome::Applied);
    pgfleet(&fleet, &a, &["compute", "unquarantine", "c1", "--reason", "again"]);
    let journal = journal(&fleet, "c1").await;
    let events: Vec<_> = journal.iter().filter_map(|(_, _, detail)| detail["event"].as_str()).collect();
    assert_eq!(events, ["panic", "panic", "panic", "quarantine", "panic"], "{journal:?}");
    let ended: Vec<_> = journal.iter().filter(|(_, _, detail)| detail["op"] == "unquarantine").collect();
    let [(actor, reason, _)] = &ended[..] else { panic!("once and with the change only: {journal:?}") };
    assert_ne!(actor, "controller");
    assert_eq!(reason.as_deref(), Some("fixed in the next release"));
}

/// The sweep's probe counts as well. Who may not write may not end a quarantine; nobody ends that of a compute that does
/// not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_panics() {
    let Some(fleet) = Fleet::start("a_probe_that_panics").await else { return };
    let a = fleet.controller("a").panic_at("in_probe:c1").probe_interval("50ms");
    let a = a.args(&["--panic-limit", "2", "--quarantine-pause", "300ms"]).start_leader().await;
    let client = fleet.client(&[&a]);
    let (bad, good) = (Agent::start("c1").await, Agent::start("c2").await);
    for agent in [&bad, &good] {
        agent.register(&client).await;
        agent.has(1).await;
    }
    let held = async |id| client.get(id).await.unwrap().quarantine;
    wait_until("it is quarantined", PATIENCE, async || held(&bad.id).await.is_some()).await;
    assert_eq!(panics(&a, "observe").await, (3.0, 3.0));
    // The engine's tries ask its agent, and nobody else does.
    wait_until("it is tried", PATIENCE, async || held(&bad.id).await.is_some_and(|held| held.tries >= 2)).await;
    let (_, before) = good.calls();
    wait_until("the others are probed", PATIENCE, async || good.calls().1 > before + 3).await;
    assert_eq!(panics(&a, "observe").await, (3.0, 3.0), "no probe of the sweep since");
    assert_eq!(held(&good.id).await, None);

    let end = |id: &str, scope| {
        a.call("POST", &format!("/control/v1/compute/{id}/unquarantine")).token(&fleet.keys().scope(scope))
    };
    assert_eq!(end("c1", Scope::Viewer).send().await.status, 403);
    assert_eq!(end("nobody", Scope::Infra).send().await.refusal(), (404, ErrorCode::UnknownCompute));
    let answer = end("c2", Scope::Infra).send().await;
    assert_eq!((answer.status, answer.json::<ComputeView>().quarantine), (200, None), "idempotent");
}

/// What the CLI prints.
fn pgfleet(fleet: &Fleet, member: &Controller, args: &[&str]) -> String {
    let token = fleet.dir().join("keys").join("cli.token");
    std::fs::write(&token, fleet.keys().scope(Scope::Admin)).unwrap();
    let output = std::process::Command::new(program("pgfleet"))
        .args(["--endpoint", member.url(), "--token-file"])
        .arg(&token)
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
