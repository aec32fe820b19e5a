//! A database that loses what it had committed: a copy of its data directory is put back. Every member goes on by itself,
//! what was lost is found and said, and every agent is governed again, whatever term or generation it has kept.

use std::time::Duration;

use pgfleet_api::agent::AgentStatus;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{ComputeView, RegisterCompute, WaitOutcome};
use pgfleet_api::controller::Role;
use pgfleet_api::{ErrorCode, Fence, Generation, SpecText, Term};
use pgfleet_clients::agent::{AgentClient, AgentTimeouts};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_clients::token::{Grant, Source};
use pgfleet_domain::spec::spec_hash;
use pgfleet_harness::agent::Agent;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::StopMode;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::{mark_of, marked};
use pgfleet_harness::wait::{stays, wait_for, wait_until};
use serde_json::Value;

use super::{metric, step_down};

/// A port on this machine where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

const LOST: &str = "storage_controller_lost_commits_total";

async fn register(client: &ControllerClient, agent: &Agent, mark: &str) {
    let body =
        RegisterCompute { agent_url: agent.url().to_owned(), labels: Default::default(), spec: Some(marked(mark)) };
    client.register(&agent.id, &body).await.unwrap();
}

/// A new spec, and the agent has it.
async fn put_and_applied(client: &ControllerClient, agent: &Agent, mark: &str) -> Generation {
    let accepted = client.put_spec(&agent.id, &marked(mark), None).await.unwrap();
    has(agent, mark).await;
    let waited = client.wait(&agent.id, Some(accepted.generation), PATIENCE).await.unwrap();
    assert_eq!(waited.outcome, WaitOutcome::Applied, "{waited:?}");
    accepted.generation
}

/// Waits until this content is in effect at the agent.
async fn has(agent: &Agent, mark: &str) -> AgentStatus {
    let hash = spec_hash(&marked(mark));
    let what = format!("the agent runs {mark}");
    let runs = |status: &AgentStatus| {
        status.spec_hash.as_ref() == Some(&hash) && status.applied_generation == status.generation
    };
    agent.shows(&what, PATIENCE, runs).await
}

/// Details of the controller's own lines in the journal with this reason.
async fn journalled(fleet: &Fleet, reason: &str) -> Vec<Value> {
    let sql =
        "SELECT detail::text FROM journal WHERE kind = 'action' AND actor = 'controller' AND reason = $1 ORDER BY at";
    let rows = fleet.database().await.query(sql, &[&reason]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

/// Whichever of these members leads, with its term.
async fn leader<'a>(members: &[&'a Controller]) -> (&'a Controller, Term) {
    wait_for("somebody leads", PATIENCE, async || {
        for member in members {
            if let Some(status) = member.status().await.filter(|status| status.role == Role::Leader) {
                return Some((*member, status.term?));
            }
        }
        None
    })
    .await
}

/// Steps the leader down and waits for the other one.
async fn over_to(fleet: &Fleet, from: &Controller, to: &Controller) -> Term {
    assert_eq!(step_down(fleet, from).await.status, 200);
    let taken = to.call("POST", "/control/v1/take_over").token(&fleet.keys().scope(Scope::Admin)).send().await;
    assert_eq!(taken.status, 200, "{}", taken.body);
    to.leads(PATIENCE).await
}

async fn lost(members: &[&Controller], what: &str) -> f64 {
    let mut sum = 0.0;
    for member in members {
        sum += metric(member, LOST, &format!("what=\"{what}\"")).await;
    }
    sum
}

/// Terms and generations are lost, and the members live: they remember the terms, claim above them and load afresh; the
/// generation that the agent has and the database lacks is passed over; a new spec is applied.
#[tokio::test(flavor = "multi_thread")]
async fn members_go_on_by_themselves_after_lost_terms_and_generations() {
    let test = "members_go_on_by_themselves_after_lost_terms_and_generations";
    let Some(fleet) = Fleet::with_own_server(test).await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a, &b]);
    register(&client, &agent, "one").await;
    has(&agent, "one").await;
    fleet.cluster().copy_data("early").await.unwrap();
    let before = leader(&[&a, &b]).await.1;

    put_and_applied(&client, &agent, "two").await;
    let (old, _) = leader(&[&a, &b]).await;
    let new = if std::ptr::eq(old, &a) { &b } else { &a };
    over_to(&fleet, old, new).await;
    let lost_term = over_to(&fleet, new, old).await;
    assert!(lost_term > before);
    let lost_generation = put_and_applied(&client, &agent, "three").await;
    fleet.cluster().put_back("early").await.unwrap();

    let status = has(&agent, "one").await;
    assert!(status.generation > Some(lost_generation), "{status:?}");
    let (_, term) = leader(&[&a, &b]).await;
    assert!(term > lost_term && status.term > Some(lost_term), "{term} {status:?}");
    let after = put_and_applied(&client, &agent, "four").await;
    assert!(Some(after) > status.generation);

    let lines = journalled(&fleet, "lost_commits").await;
    assert!(lines.iter().any(|line| line["what"] == "term" && line["known"] == lost_term.get()), "{lines:?}");
    assert!(lines.iter().any(|line| line["what"] == "changes"), "{lines:?}");
    let lines = journalled(&fleet, "lost_commit").await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["agent_generation"], lost_generation.get());
    assert_eq!(lines[0]["agent_spec_hash"], spec_hash(&marked("three")).to_string());
    for what in ["term", "changes", "agent_generation"] {
        assert!(lost(&[&a, &b], what).await >= 1.0, "{what}");
    }
    let terms: Vec<i64> = fleet.history().await.iter().map(|(term, ..)| *term).collect();
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    assert!(a.process.said("has lost") || b.process.said("has lost"));
}

/// Nobody but the agent remembers the lost term: the leader hears of it, claims again above it, and the agent is governed.
#[tokio::test(flavor = "multi_thread")]
async fn a_term_that_only_an_agent_remembers_is_claimed_over() {
    let test = "a_term_that_only_an_agent_remembers_is_claimed_over";
    let Some(fleet) = Fleet::with_own_server(test).await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    register(&fleet.client(&[&a]), &agent, "one").await;
    has(&agent, "one").await;
    fleet.cluster().copy_data("early").await.unwrap();
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    over_to(&fleet, &a, &b).await;
    over_to(&fleet, &b, &a).await;
    let lost_term = over_to(&fleet, &a, &b).await;
    put_and_applied(&fleet.client(&[&a, &b]), &agent, "two").await;
    a.process.kill().await;
    b.process.kill().await;
    fleet.cluster().put_back("early").await.unwrap();

    let c = fleet.controller("c").start_leader().await;
    let client = fleet.client(&[&c]);
    put_and_applied(&client, &agent, "three").await;
    let term = c.leads(PATIENCE).await;
    assert!(term > lost_term, "{term}");
    assert_eq!(lost(&[&c], "agent_term").await, 1.0);
    let lines = journalled(&fleet, "lost_commits").await;
    assert!(lines.iter().any(|line| line["what"] == "agent_term" && line["known"] == lost_term.get()), "{lines:?}");
    // Its first term lasts only until it has spoken to the agent: often it is over before anybody could ask for it.
    let history = fleet.history().await;
    let [.., (first, crash, _), (last, revert, _)] = history.as_slice() else { panic!("{history:?}") };
    assert_eq!((crash.as_str(), revert.as_str(), *last), ("crash", "revert", term.get()));
    assert!(*first < lost_term.get(), "it knew nothing of that term: {history:?}");
    stays("one claim was enough", Duration::from_secs(2), async || c.leads(PATIENCE).await == term).await;
}

/// The leader's own row survives, and what it wrote does not. Meanwhile another content is put under the generation that the
/// agent has: two contents under one generation, of which only the database's lives on.
#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_is_minted_twice_is_lifted() {
    let Some(fleet) = Fleet::with_own_server("a_generation_that_is_minted_twice_is_lifted").await else { return };
    let a = fleet.controller("a").lease("20s", "200ms").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, "one").await;
    has(&agent, "one").await;
    fleet.cluster().copy_data("early").await.unwrap();
    let twice = put_and_applied(&client, &agent, "two").await;
    let before = a.leads(PATIENCE).await;
    agent.process.freeze().await;
    fleet.cluster().put_back("early").await.unwrap();

    let spec = async || client.get_spec(&agent.id).await.ok().map(|view| mark_of(&view.spec));
    wait_until("the leader has what the database has", PATIENCE, async || spec().await.as_deref() == Some("one")).await;
    assert!(a.leads(PATIENCE).await > before, "it began anew");
    let accepted = client.put_spec(&agent.id, &marked("other"), None).await.unwrap();
    assert_eq!(accepted.generation, twice);
    agent.process.thaw();
    let status = has(&agent, "other").await;
    assert!(status.generation > Some(twice), "{status:?}");
    let waited = client.wait(&agent.id, Some(accepted.generation), PATIENCE).await.unwrap();
    assert_eq!((waited.outcome, waited.compute.spec_hash), (WaitOutcome::Applied, Some(accepted.spec_hash)));
    let lines = journalled(&fleet, "lost_commit").await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["agent_spec_hash"], spec_hash(&marked("two")).to_string());
    assert_eq!(lost(&[&a], "agent_content").await, 1.0);
    assert_eq!(lost(&[&a], "changes").await, 1.0);
}

/// An agent whose term is beyond belief is quarantined; its compute's change by an operator lets it be tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_jump_of_the_term_quarantines_that_agent() {
    let Some(fleet) = Fleet::start("a_jump_of_the_term_quarantines_that_agent").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let (agent, other) = (fleet.agent("c1").start().await, fleet.agent("c2").start().await);
    let client = fleet.client(&[&a]);
    register(&client, &agent, "one").await;
    register(&client, &other, "one").await;
    has(&agent, "one").await;
    has(&other, "one").await;
    let jump = Term(2_000_000);
    speak_to(&fleet, &agent, jump).await;
    let before = a.leads(PATIENCE).await;

    client.put_spec(&agent.id, &marked("two"), None).await.unwrap();
    let quarantined =
        async || -> Option<ComputeView> { client.get(&agent.id).await.ok().filter(|view| view.quarantine.is_some()) };
    let view = wait_for("the compute is quarantined", PATIENCE, quarantined).await;
    assert!(view.quarantine.is_some_and(|shown| shown.reason.contains("2000000")));
    put_and_applied(&client, &other, "two").await;
    assert_eq!(a.leads(PATIENCE).await, before, "nobody claims over it");
    let sql = "SELECT count(*) FROM journal WHERE compute_id = 'c1' AND detail->>'event' = 'quarantine'";
    let count = async || fleet.database().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count().await, 1);
    assert_eq!(metric(&a, "storage_controller_computes_quarantined", "").await, 1.0);

    // An operator finds that the term is right, and raises the row.
    fleet.database().await.execute("UPDATE leader SET term = $1", &[&jump.get()]).await.unwrap();
    wait_until("it leads above", PATIENCE, async || a.leads(PATIENCE).await > jump).await;
    put_and_applied(&client, &agent, "three").await;
}

/// The same without a new leadership: what an operator changes is tried at once, and a refusal quarantines again.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_change_ends_the_quarantine_of_a_jump() {
    let Some(fleet) = Fleet::start("an_operators_change_ends_the_quarantine_of_a_jump").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, "one").await;
    has(&agent, "one").await;
    speak_to(&fleet, &agent, Term(2_000_000)).await;
    let sql = "SELECT count(*) FROM journal WHERE compute_id = 'c1' AND detail->>'event' = 'quarantine'";
    for round in 1..=2 {
        client.put_spec(&agent.id, &marked(&format!("round {round}")), None).await.unwrap();
        wait_until("it is quarantined", PATIENCE, async || {
            fleet.database().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == round
        })
        .await;
    }
    assert!(client.get(&agent.id).await.unwrap().quarantine.is_some());
}

/// A candidate stands still while the database loses changes and draws their numbers again: its cursor tells it nothing, and
/// its memory is right all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_slept_through_a_loss_agrees() {
    let Some(fleet) = Fleet::with_own_server("a_candidate_that_slept_through_a_loss_agrees").await else { return };
    let a = fleet.controller("a").lease("20s", "200ms").start_leader().await;
    let b = fleet.controller("b").lease("20s", "200ms").memory_door().start().await;
    b.follows(&a, PATIENCE).await;
    let client = fleet.client(&[&a]);
    let make = async |name: &str| {
        let body = RegisterCompute { agent_url: NOBODY.to_owned(), labels: Default::default(), spec: None };
        client.register(&name.parse().unwrap(), &body).await.unwrap();
    };
    make("kept").await;
    fleet.cluster().copy_data("early").await.unwrap();
    make("lost").await;
    fleet.memories_agree(&[&b]).await;
    let (cursor, _) = fleet.memory_of(&b).await.unwrap();
    b.process.freeze().await;
    let before = a.leads(PATIENCE).await;
    fleet.cluster().put_back("early").await.unwrap();
    wait_until("the leader begins anew", PATIENCE, async || a.leads(PATIENCE).await > before).await;
    for n in 0..6 {
        make(&format!("new-{n}")).await;
    }
    let row = fleet.database().await.query_one("SELECT last_change FROM change_cursor", &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) > cursor, "the numbers of what was lost were drawn again");
    b.process.thaw();
    fleet.memories_agree(&[&b]).await;
    assert_eq!(client.get(&"lost".parse().unwrap()).await.unwrap_err().code(), Some(ErrorCode::UnknownCompute));
}

/// What is lost may be a migration: whoever leads next runs it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_migration_is_run_again() {
    let Some(fleet) = Fleet::with_own_server("a_lost_migration_is_run_again").await else { return };
    let dir = fleet.make_dir("later").join("20990101000000_later");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("up.sql"), "CREATE TABLE IF NOT EXISTS later (a int)").unwrap();
    std::fs::write(dir.join("down.sql"), "DROP TABLE later").unwrap();
    let later = async || {
        let row = fleet.database().await.query_one("SELECT to_regclass('later') IS NOT NULL", &[]).await.unwrap();
        row.get::<_, bool>(0)
    };
    let a = fleet.controller("a").start_leader().await;
    fleet.cluster().copy_data("early").await.unwrap();
    let root = fleet.dir().join("later").display().to_string();
    let newer = |name| fleet.controller(name).args(&["--dev", "--migrations-dir", &root]);
    let b = newer("b").as_candidate().start_leader().await;
    let term = b.leads(PATIENCE).await;
    assert!(later().await);
    // It finds nothing to migrate when it starts.
    let c = newer("c").start().await;
    c.follows(&b, PATIENCE).await;
    // The database first: nobody is to begin a leadership that ends with it.
    fleet.cluster().stop(StopMode::Immediate).await.unwrap();
    a.process.kill().await;
    b.process.kill().await;
    fleet.cluster().put_back("early").await.unwrap();
    wait_until("it leads, above", PATIENCE, async || c.leads(PATIENCE).await > term).await;
    assert!(later().await);
}

/// Speaks to the agent as a leader of this term would, with what it has already.
async fn speak_to(fleet: &Fleet, agent: &Agent, term: Term) {
    let row = fleet.database().await.query_one("SELECT cluster_id::text FROM cluster", &[]).await.unwrap();
    let status = agent.status().await.unwrap();
    let (generation, spec_hash) = (status.generation.unwrap(), status.spec_hash.unwrap());
    let cluster_id = row.get::<_, String>(0).parse().unwrap();
    let fence = Fence { cluster_id, compute_id: agent.id.clone(), term, generation, spec_hash };
    let tokens = Source::Fixed(fleet.keys().token(&Grant::agent_admin()));
    let agents = AgentClient::new(tokens, AgentTimeouts::default()).unwrap();
    agents.configure(agent.url(), &SpecText::from(marked("one")), &fence).await.unwrap();
    agent.shows("the agent has the term", PATIENCE, |status| status.term == Some(term)).await;
}
