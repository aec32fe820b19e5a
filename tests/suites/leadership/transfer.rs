//! An operator has another member lead: the route, the command line, the history; and a migration that failed before.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use pgfleet_api::auth::Scope;
use pgfleet_api::controller::{FollowLine, Role, TakeOverResponse, TermList};
use pgfleet_api::{ErrorCode, InstanceId};
use pgfleet_clients::peer::{Identity, PeerClient};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::programs::program;
use pgfleet_harness::wait::{stays, wait_for};

use super::hand_over::write_migration;
use super::{SECOND, put, register};

fn take_over(fleet: &Fleet, member: &Controller, body: &str) -> Call {
    member.call("POST", "/control/v1/take_over").token(&fleet.keys().scope(Scope::Admin)).body(body)
}

/// Runs the command line against these members.
fn pgfleet(fleet: &Fleet, members: &[&Controller], args: &[&str]) -> Output {
    let token = fleet.dir().join("operator.token");
    std::fs::write(&token, fleet.keys().scope(Scope::Admin)).unwrap();
    let mut command = Command::new(program("pgfleet"));
    command.env_remove("PGFLEET_ENDPOINTS").env_remove("PGFLEET_TOKEN_FILE");
    for member in members {
        command.args(["--endpoint", member.url()]);
    }
    command.arg("--token-file").arg(&token).args(args).output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The route answers when the member leads and serves, with how long it took; whoever leads already says so at once.
#[tokio::test(flavor = "multi_thread")]
async fn take_over_by_route() {
    let Some(fleet) = Fleet::start("take_over_by_route").await else { return };
    let a = fleet.controller("a").lease("20s", "500ms").start_leader().await;
    let b = fleet.controller("b").lease("20s", "500ms").start().await;
    b.follows(&a, PATIENCE).await;
    register(&fleet, &a, "c1").await;

    let answer = take_over(&fleet, &b, "").send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let done: TakeOverResponse = answer.json();
    assert_eq!((done.leader.instance_id, done.leader.term.get()), (b.instance_id(), 2));
    assert!(done.gap_ms > 0.0 && done.gap_ms < 20_000.0, "{done:?}");
    assert!(["step_down", "claim", "load"].iter().all(|phase| done.phases_ms.contains_key(*phase)), "{done:?}");
    assert_eq!(put(&fleet, &b, "c1", "at once").send().await.status, 202, "it serves");
    a.follows(&b, PATIENCE).await;

    let again: TakeOverResponse = take_over(&fleet, &b, "{}").send().await.json();
    assert_eq!((again.leader.term.get(), again.gap_ms), (2, 0.0), "it leads already");
    let refused = take_over(&fleet, &a, r#"{"froce": true}"#).send().await;
    assert_eq!(refused.refusal(), (422, ErrorCode::InvalidBody));
    assert_eq!(take_over(&fleet, &a, "").send().await.status, 200, "and back");

    let viewer = fleet.keys().scope(Scope::Viewer);
    let list: TermList = b.call("GET", "/control/v1/leader/history?limit=2").token(&viewer).send().await.json();
    let told: Vec<_> =
        list.terms.iter().map(|term| (term.term.get(), term.began.as_str(), term.ended.as_deref())).collect();
    assert_eq!(told, [(3, "step_down", None), (2, "step_down", Some("step_down"))]);
}

/// A caller that goes away stops nothing, and nothing is left half done.
#[tokio::test(flavor = "multi_thread")]
async fn take_over_survives_its_caller() {
    let Some(fleet) = Fleet::start("take_over_survives_its_caller").await else { return };
    let a = fleet.controller("a").lease("20s", "500ms").start_leader().await;
    let b = fleet.controller("b").lease("20s", "500ms").pause_at("after_step_down").start().await;
    b.follows(&a, PATIENCE).await;
    let impatient = take_over(&fleet, &b, "").limit(Duration::from_millis(500));
    let mut caller = tokio::task::JoinSet::new();
    caller.spawn(async move { impatient.try_send().await.is_err() });
    b.process.paused_at("after_step_down").await;
    assert!(caller.join_next().await.unwrap().unwrap(), "the caller gave up");
    b.process.go_on();
    // The old leader may have taken its term back meanwhile; then the wish is void and it stays.
    let leader = wait_for("one of them leads again", PATIENCE, async || {
        for member in [&a, &b] {
            if member.status().await.is_some_and(|s| s.role == Role::Leader && s.term.is_some_and(|t| t.get() > 1)) {
                return Some(member);
            }
        }
        None
    })
    .await;
    register(&fleet, leader, "c1").await;
}

/// The command line: transfer to a named member, transfer to anybody, show, history; and what it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn leader_transfer() {
    let Some(fleet) = Fleet::start("leader_transfer").await else { return };
    let long = |name| fleet.controller(name).lease("20s", "500ms");
    let a = long("a").start_leader().await;
    let b = long("b").start().await;
    let c = long("c").start().await;
    b.follows(&a, PATIENCE).await;
    c.follows(&a, PATIENCE).await;
    let members = [&a, &b, &c];

    let told = succeeds(&pgfleet(&fleet, &members, &["leader", "transfer", "--to", b.url()]));
    assert!(told.contains(b.url()) && told.contains(" ms"), "{told}");
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    let to = c.instance_id().to_string();
    let told = succeeds(&pgfleet(&fleet, &members, &["leader", "transfer", "--to", &to, "-o", "json"]));
    let done: TakeOverResponse = serde_json::from_str(&told).unwrap();
    assert_eq!((done.leader.instance_id, done.leader.term.get()), (c.instance_id(), 3));
    succeeds(&pgfleet(&fleet, &members, &["leader", "transfer"]));
    let shown = succeeds(&pgfleet(&fleet, &members, &["leader"]));
    assert!(members.iter().all(|member| shown.contains(member.url())), "{shown}");

    let history = succeeds(&pgfleet(&fleet, &members, &["leader", "history", "-n", "2"]));
    let terms: Vec<_> = history.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(terms, ["4", "3"], "{history}");
    let unknown = pgfleet(&fleet, &members, &["leader", "transfer", "--to", "http://127.0.0.1:1"]);
    assert_eq!(unknown.status.code(), Some(64), "{}", String::from_utf8_lossy(&unknown.stderr));
    assert_eq!(fleet.history().await.len(), 4);
}

/// A leader does not step down for the migration that ended a term a short while ago. The candidate says so and waits; by
/// force it may try again.
#[tokio::test(flavor = "multi_thread")]
async fn migration_failed_before() {
    let Some(fleet) = Fleet::start("migration_failed_before").await else { return };
    let broken = fleet.make_dir("broken");
    // Only the rows that are there make it fail: a rehearsal would find what is wrong with the SQL itself.
    let break_it = "CREATE TABLE half (x int); ALTER TABLE computes ADD CHECK (compute_id <> 'c1');";
    write_migration(&broken, "20990102000000_break", break_it);
    let broken = broken.display().to_string();
    let args = ["--dev", "--migrations-dir", &broken];
    let long = |name| fleet.controller(name).lease("20s", "200ms");
    let a = long("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let b = long("b").as_candidate().args(&args).launch();
    assert_eq!(b.exit_code(PATIENCE).await, 1);
    assert_eq!(a.leads(PATIENCE).await.get(), 3, "the old leader leads again");

    let c = long("c").as_candidate().args(&args).start().await;
    wait_for("it says why it waits", PATIENCE, async || {
        c.process.said("20990102000000_break failed a short while ago").then_some(())
    })
    .await;
    c.follows(&a, PATIENCE).await;
    stays("the leader stays", SECOND, async || a.status().await.is_some_and(|now| now.term.unwrap().get() == 3)).await;
    let refused = take_over(&fleet, &c, "").send().await;
    assert_eq!(refused.refusal(), (409, ErrorCode::MigrationFailedBefore));
    assert_eq!(put(&fleet, &a, "c1", "undisturbed").send().await.status, 202);

    let forced = take_over(&fleet, &c, r#"{"force": true}"#).try_send().await;
    assert!(forced.is_err() || forced.as_ref().unwrap().status == 409, "it failed again: {forced:?}");
    assert_eq!(c.process.exit_code(PATIENCE).await, 1);
    assert_eq!(a.leads(PATIENCE).await.get(), 5);
    let history = fleet.history().await;
    assert_eq!(history[3], (4, "step_down".to_owned(), Some("migration_failed".to_owned())), "{history:?}");
}

/// A row that a failed migration gave up is left to others for a lease: only then the same migration is tried again, for
/// it may have been the world's fault. Whoever has nothing to migrate does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_migration_is_not_tried_again_at_once() {
    let Some(fleet) = Fleet::start("a_failed_migration_is_not_tried_again_at_once").await else { return };
    let broken = fleet.make_dir("broken");
    // By the rows that are there: a rehearsal has none.
    let break_it = "ALTER TABLE computes ADD CHECK (compute_id <> 'c1');";
    write_migration(&broken, "20990102000000_break", break_it);
    let broken = broken.display().to_string();
    let args = ["--dev", "--migrations-dir", &broken];
    let lease = Duration::from_secs(4);
    let a = fleet.controller("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    a.process.terminate();
    assert_eq!(a.process.exit_code(PATIENCE).await, 0);
    let b = fleet.controller("b").lease("4s", "200ms").args(&args).launch();
    assert_eq!(b.exit_code(PATIENCE).await, 1, "nothing is known against it");

    let waits = Instant::now();
    let c = fleet.controller("c").lease("4s", "200ms").args(&args).launch();
    assert_eq!(c.exit_code(PATIENCE).await, 1, "nobody came, so it tried");
    assert!(waits.elapsed() >= lease, "it waited {:?}", waits.elapsed());
    let waits = Instant::now();
    assert_eq!(fleet.controller("d").lease("60s", "200ms").start_leader().await.leads(PATIENCE).await.get(), 4);
    assert!(waits.elapsed() < PATIENCE, "it waited {:?}", waits.elapsed());
    let failed = Some("migration_failed".to_owned());
    let history = fleet.history().await;
    assert_eq!(history[1], (2, "released".to_owned(), failed.clone()), "{history:?}");
    assert_eq!(history[2], (3, "released".to_owned(), failed), "{history:?}");
}

/// The stream says at once where a member stands, then each change of it and of the fleet.
#[tokio::test(flavor = "multi_thread")]
async fn follow_tells_each_change() {
    let Some(fleet) = Fleet::start("follow_tells_each_change").await else { return };
    let a = fleet.controller("a").lease("60s", "20s").start_leader().await;
    let identity = Identity {
        instance_id: InstanceId::generate(),
        address: "http://127.0.0.1:1".to_owned(),
        version: "v".to_owned(),
    };
    let peer = PeerClient::new(identity.clone(), fleet.keys().source()).unwrap();
    let mut stream = peer.follow(a.url(), PATIENCE).await.unwrap();
    let first: FollowLine = stream.next(SECOND).await.unwrap();
    assert_eq!((first.instance_id, first.role, first.term.unwrap().get()), (a.instance_id(), Role::Leader, 1));
    let list = fleet.client(&[&a]).controllers().await.unwrap().controllers;
    assert!(list.iter().any(|member| member.instance_id == identity.instance_id), "the stream registers: {list:?}");

    register(&fleet, &a, "c1").await;
    let line = stream.next(Duration::from_secs(10)).await.unwrap();
    assert!(line.change_seq > first.change_seq, "{line:?} after {first:?}");
    let stepped = a.call("PUT", "/control/v1/step_down?snapshot=none").token(&fleet.keys().scope(Scope::Admin));
    assert!(!stepped.send().await.body.contains("computes\":{\"c1"), "it brings nothing");
    let mut roles = Vec::new();
    while roles.last() != Some(&Role::Leader) {
        roles.push(stream.next(Duration::from_secs(10)).await.unwrap().role);
    }
    assert!(roles.contains(&Role::SteppedDown), "{roles:?}");

    let killed = Instant::now();
    a.process.kill().await;
    while stream.next(Duration::from_secs(10)).await.is_ok() {}
    assert!(killed.elapsed() < Duration::from_secs(5), "the kernel closes what a killed process had open");
}
