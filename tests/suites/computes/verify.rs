//! `pgfleet verify` against a cluster that lives, and the route that tells it what the journal has.

use std::process::{Command, Output};

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::HistoryPage;
use pgfleet_api::controller::Role;
use pgfleet_api::{ErrorCode, Generation};
use pgfleet_harness::agent::Agent;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::programs::program;
use pgfleet_harness::specs::marked;
use serde_json::Value;

use super::{applied, register};

fn verify(fleet: &Fleet, members: &[&Controller], args: &[&str]) -> Output {
    let token = fleet.dir().join("viewer.token");
    std::fs::write(&token, fleet.keys().scope(Scope::Viewer)).unwrap();
    let mut command = Command::new(program("pgfleet"));
    command.env_remove("PGFLEET_ENDPOINTS").env_remove("PGFLEET_TOKEN_FILE");
    for member in members {
        command.args(["--endpoint", member.url()]);
    }
    command.arg("--token-file").arg(&token).args(["verify", "--live"]).args(args).output().unwrap()
}

/// The report, and the invariants that came out as `outcome`.
fn report(output: &Output) -> (Value, impl Fn(&str) -> Vec<String>) {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let invariants = report["invariants"].as_array().unwrap().clone();
    let named = move |outcome: &str| {
        let with = invariants.iter().filter(|one| one["outcome"] == outcome);
        with.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    (report, named)
}

#[track_caller]
fn refuses(fleet: &Fleet, members: &[&Controller], invariants: &[&str], words: &str) {
    let output = verify(fleet, members, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let (report, named) = report(&output);
    assert_eq!(named("broken"), invariants, "{report:#}");
    assert!(report.to_string().contains(words), "{report:#}");
    let line = String::from_utf8_lossy(&output.stderr);
    assert!(line.contains(&format!("broken: {}", invariants.join(", "))), "{line}");
}

async fn puts(fleet: &Fleet, leader: &Controller, agent: &Agent, mark: &str) -> Generation {
    let client = fleet.client(&[leader]);
    let accepted = client.put_spec(&agent.id, &marked(mark), None).await.unwrap();
    applied(&client, agent).await;
    accepted.generation
}

/// After a hand-over and a crash everything is as promised, and it says how much was looked at. A database that somebody
/// doctored is found out, whatever was doctored.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_cluster_is_verified() {
    let Some(fleet) = Fleet::start("a_live_cluster_is_verified").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agents = [fleet.agent("c1").start().await, fleet.agent("c2").start().await];
    for agent in &agents {
        register(&fleet.client(&[&a]), agent, Some(marked("first"))).await;
        applied(&fleet.client(&[&a]), agent).await;
    }
    let b = fleet.controller("b").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    puts(&fleet, &b, &agents[0], "second").await;
    b.process.kill().await;
    assert_eq!(a.leads(PATIENCE).await.get(), 3);
    let last = puts(&fleet, &a, &agents[0], "third").await;
    assert_eq!(last.get(), 3);

    let output = verify(&fleet, &[&a, &b], &["-o", "json"]);
    let (report, named) = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["passed"], true);
    let kept = named("kept");
    for invariant in ["recording", "terms", "one_leader", "content", "ledger", "journal"] {
        assert!(kept.iter().any(|one| one == invariant), "{invariant} in {report:#}");
    }
    let unchecked = named("not_checked");
    for invariant in ["writers", "acknowledged", "linearizable"] {
        assert!(unchecked.iter().any(|one| one == invariant), "{invariant} in {report:#}");
    }
    assert!(report["facts"].as_u64().unwrap() >= 20, "{report:#}");
    assert_eq!(report["figures"]["terms"], 3);
    assert!(report["missing"].to_string().contains(b.url()), "the dead member was not asked: {report:#}");
    let text = verify(&fleet, &[&a], &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("facts checked, nothing is broken") && text.contains("not checked"), "{text}");

    doctored(&fleet, &a).await;
}

/// One statement each, taken back before the next.
async fn doctored(fleet: &Fleet, leader: &Controller) {
    let database = fleet.database().await;
    let last = "(SELECT max(change_seq) FROM journal WHERE compute_id = 'c1')";
    let first = "(SELECT min(change_seq) FROM journal WHERE compute_id = 'c2')";
    let cases = [
        (format!("UPDATE journal SET term = 1 WHERE change_seq = {last}"), &["journal"][..], "before it of 3"),
        (
            format!("UPDATE journal SET term = 9 WHERE change_seq = {last}"),
            &["journal"],
            "leader history does not have",
        ),
        (
            format!("UPDATE journal SET detail = jsonb_set(detail, '{{generation}}', '99') WHERE change_seq = {first}"),
            &["journal"],
            "99",
        ),
        (
            "UPDATE leader_history SET instance_id = gen_random_uuid() WHERE term = 3".to_owned(),
            &["terms", "one_leader"],
            "term 3 was",
        ),
    ];
    for (statement, invariants, words) in cases {
        database.batch_execute("CREATE TABLE kept AS SELECT * FROM journal").await.unwrap();
        database.batch_execute("CREATE TABLE kept_terms AS SELECT * FROM leader_history").await.unwrap();
        database.batch_execute(&statement).await.unwrap();
        refuses(fleet, &[leader], invariants, words);
        let back = "TRUNCATE journal; INSERT INTO journal SELECT * FROM kept; DROP TABLE kept;
            UPDATE leader_history h SET instance_id = k.instance_id FROM kept_terms k WHERE k.term = h.term;
            DROP TABLE kept_terms";
        database.batch_execute(back).await.unwrap();
    }
    assert_eq!(verify(fleet, &[leader], &[]).status.code(), Some(0), "all was taken back");
}

/// Pages of a compute's journal through a member that does not lead, for whoever may read.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_a_compute_is_served() {
    let Some(fleet) = Fleet::start("the_journal_of_a_compute_is_served").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.is(Role::Candidate, PATIENCE).await;
    b.follows(&a, PATIENCE).await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, None).await;
    for mark in ["one", "two", "three"] {
        puts(&fleet, &a, &agent, mark).await;
    }
    let get = |query: &str| {
        let path = format!("/control/v1/compute/c1/history{query}");
        b.call("GET", &path).token(&fleet.keys().scope(Scope::Viewer))
    };
    let all: HistoryPage = get("").send().await.json();
    let seqs: Vec<i64> = all.lines.iter().map(|line| line.change_seq).collect();
    // One registration and three specs; how many states of the agent are seen between them is chance.
    assert_eq!(all.lines.iter().filter(|line| line.detail.get("op").is_some()).count(), 4, "{all:?}");
    assert!(seqs.is_sorted_by(|one, next| one > next), "{seqs:?}");
    assert_eq!(all.next_cursor, None);
    assert_eq!(all.lines.last().unwrap().detail["op"], "register");
    assert!(all.lines.iter().all(|line| line.term.get() == 1 && line.compute_id.as_ref() == Some(&agent.id)));
    let (mut paged, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page: HistoryPage = get(&query).send().await.json();
        assert!((1..=2).contains(&page.lines.len()));
        paged.extend(page.lines.iter().map(|line| line.change_seq));
        let Some(next) = page.next_cursor else { break };
        query = format!("?limit=2&cursor={next}");
    }
    // The agent may have said something in between.
    assert!(paged.ends_with(&seqs), "{paged:?} {seqs:?}");

    assert_eq!(get("?limit=0").send().await.refusal(), (422, ErrorCode::InvalidBody));
    assert_eq!(get("?since=1").send().await.refusal(), (422, ErrorCode::InvalidRequest));
    let unknown = b.call("GET", "/control/v1/compute/c9/history").token(&fleet.keys().scope(Scope::Viewer));
    assert_eq!(unknown.send().await.refusal().0, 404);
    client.delete(&agent.id).await.unwrap();
    let gone: HistoryPage = get("?limit=1").send().await.json();
    assert_eq!(gone.lines[0].detail["op"], "delete");
}
