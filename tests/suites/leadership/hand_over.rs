//! The leader gives up: asked by a candidate, by an operator, by SIGTERM; and gets it back when nobody takes it.

use std::path::Path;
use std::time::{Duration, Instant};

use pgfleet_api::ErrorCode;
use pgfleet_api::auth::Scope;
use pgfleet_api::controller::{LeaderView, Role, StepDownResponse};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_for;

use super::{put, register};

/// SIGTERM: the row is released, the process ends with 0, and the successor does not wait for the lease.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_leader() {
    let Some(fleet) = Fleet::start("sigterm_leader").await else { return };
    let lease = Duration::from_secs(30);
    let a = fleet.controller("a").lease("30s", "300ms").start_leader().await;
    let b = fleet.controller("b").lease("30s", "300ms").start().await;
    b.is(Role::Candidate, PATIENCE).await;
    let told = Instant::now();
    a.process.terminate();
    assert_eq!(a.process.exit_code(PATIENCE).await, 0);
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    assert!(told.elapsed() < lease / 2, "it took {:?}", told.elapsed());
    let history = fleet.history().await;
    assert_eq!(history[0], (1, "first".to_owned(), Some("released".to_owned())));
    assert_eq!(history[1], (2, "released".to_owned(), None));

    b.process.terminate();
    assert_eq!(b.process.exit_code(PATIENCE).await, 0);
    let (term, released) = fleet.leader_row().await.unwrap();
    assert_eq!((term.get(), released), (2, true), "nobody is left and the row says so");
}

/// A candidate is told to go like everybody else, and the leader does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_candidate() {
    let Some(fleet) = Fleet::start("sigterm_candidate").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.is(Role::Candidate, PATIENCE).await;
    b.process.terminate();
    assert_eq!(b.process.exit_code(PATIENCE).await, 0);
    assert_eq!(a.leads(PATIENCE).await.get(), 1);
    assert_eq!(fleet.history().await, [(1, "first".to_owned(), None)]);
}

/// An operator's step-down has no body and gets the whole snapshot, the same each time. Meanwhile nothing is executed but
/// what every role answers. When nobody came for a short while, the old leader leads again.
#[tokio::test(flavor = "multi_thread")]
async fn step_down_without_a_body() {
    let Some(fleet) = Fleet::start("step_down_without_a_body").await else { return };
    let a = fleet.controller("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let call = a.call("PUT", "/control/v1/step_down").token(&fleet.keys().scope(Scope::Admin));
    let first = call.send().await;
    assert_eq!(first.status, 200, "{}", first.body);
    let snapshot: StepDownResponse = first.json();
    assert_eq!((snapshot.format, snapshot.term.get(), snapshot.complete), (1, 1, true));
    assert_eq!(call.send().await.body, first.body, "repeatable");

    let refused = put(&fleet, &a, "c1", "rejected").send().await;
    assert_eq!(refused.refusal(), (503, ErrorCode::SteppedDown));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(refused.header("x-pgfleet-executed"), Some("no"));
    for (path, status) in [("/live", 200), ("/status", 200), ("/metrics", 200), ("/ready", 503), ("/leader", 503)] {
        assert_eq!(a.call("GET", path).send().await.status, status, "{path}");
    }
    assert_eq!(a.leads(PATIENCE).await.get(), 2, "nobody came");
    let history = fleet.history().await;
    assert_eq!(history[1], (2, "revert".to_owned(), None));
    assert_eq!(put(&fleet, &a, "c1", "accepted").send().await.status, 202);
}

/// The successor that the leader stepped down for dies before it claims: the old leader leads again after a second, long
/// before its lease has run out, under a new term.
#[tokio::test(flavor = "multi_thread")]
async fn successor_never_comes() {
    let Some(fleet) = Fleet::start("successor_never_comes").await else { return };
    let a = fleet.controller("a").lease("60s", "500ms").args(&["--step-down-revert", "1s"]).start_leader().await;
    let b = fleet.controller("b").as_candidate().pause_at("after_step_down").start().await;
    b.process.paused_at("after_step_down").await;
    let stepped_down = Instant::now();
    let status = a.is(Role::SteppedDown, PATIENCE).await;
    assert_eq!(status.successor.map(|successor| successor.instance_id), Some(b.instance_id()));
    assert!(status.hold_ms.is_some());
    b.process.kill().await;
    assert_eq!(a.leads(PATIENCE).await.get(), 2);
    let took = stepped_down.elapsed();
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(10), "it took {took:?}");
    assert_eq!(fleet.history().await[1].1, "revert");
}

/// The successor dies after its claim, before or inside its migration: nothing of the migration is left, its row's address
/// refuses, and the old leader leads again without waiting for a lease.
#[tokio::test(flavor = "multi_thread")]
async fn successor_dies_after_its_claim() {
    let Some(fleet) = Fleet::start("successor_dies_after_its_claim").await else { return };
    let dir = fleet.make_dir("migrations");
    write_migration(&dir, "20990101000000_add_probe", "CREATE TABLE probe (x int);");
    let dir = dir.display().to_string();
    let a = fleet.controller("a").lease("60s", "300ms").start_leader().await;
    register(&fleet, &a, "c1").await;
    let mut term = 1;
    for point in ["after_claim", "mid_migration"] {
        let b = fleet.controller(point).lease("60s", "300ms").as_candidate().args(&["--migrations-dir", &dir]);
        let b = b.pause_at(point).start().await;
        b.process.paused_at(point).await;
        a.follows(&b, PATIENCE).await;
        b.process.kill().await;
        term += 2;
        assert_eq!(a.leads(PATIENCE).await.get(), term, "killed at {point}");
        let there = "SELECT to_regclass('probe') IS NOT NULL";
        assert!(!fleet.database().await.query_one(there, &[]).await.unwrap().get::<_, bool>(0), "killed at {point}");
        assert_eq!(put(&fleet, &a, "c1", point).send().await.status, 202, "killed at {point}");
    }
    let began: Vec<String> = fleet.history().await.into_iter().map(|(_, began, _)| began).collect();
    assert_eq!(began, ["first", "step_down", "crash", "step_down", "crash"]);
}

/// A rolling restart of one member: the candidate asks, the leader steps down for it and stays as a candidate; the
/// request names the leadership it is meant for, and another leadership refuses.
#[tokio::test(flavor = "multi_thread")]
async fn start_as_candidate() {
    let Some(fleet) = Fleet::start("start_as_candidate").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    assert_eq!(fleet.history().await[1].1, "step_down");
    let row: LeaderView =
        a.call("GET", "/control/v1/leader").token(&fleet.keys().scope(Scope::Viewer)).send().await.json();
    assert_eq!((row.instance_id, row.term.get(), row.address.as_str()), (b.instance_id(), 2, b.url()));
    wait_for("the leader lists both members", PATIENCE, async || {
        let list = fleet.client(&[&b]).controllers().await.unwrap().controllers;
        let roles: Vec<_> = list.iter().map(|member| (member.instance_id, member.role)).collect();
        (roles == [(b.instance_id(), Role::Leader), (a.instance_id(), Role::Candidate)]).then_some(())
    })
    .await;

    let peer = fleet.keys().scope(Scope::ControllerPeer);
    let body = format!(
        r#"{{"leader":{{"instance_id":"{}","term":1}},"candidate":{{"instance_id":"{}","address":"{}"}}}}"#,
        b.instance_id(),
        a.instance_id(),
        a.url()
    );
    let refused = b.call("PUT", "/control/v1/step_down").token(&peer).body(body).send().await;
    assert_eq!(refused.refusal(), (409, ErrorCode::NotThatLeader));
    assert_eq!(refused.error().leader.map(|leader| leader.term.get()), Some(2));
    let refused = a.call("PUT", "/control/v1/step_down").token(&peer).send().await;
    assert_eq!(refused.refusal(), (409, ErrorCode::NotThatLeader), "whoever does not lead cannot step down");
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
}

pub(super) fn write_migration(dir: &Path, name: &str, up: &str) {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("up.sql"), up).unwrap();
    std::fs::write(dir.join("down.sql"), "SELECT 1;").unwrap();
}

/// Migrations run after the step-down and after the claim, and before anything is served. One that fails ends its process
/// with 1 and gives the row back; the old leader leads again.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_after_step_down() {
    let Some(fleet) = Fleet::start("migrations_after_step_down").await else { return };
    let dir = fleet.make_dir("migrations");
    write_migration(&dir, "20990101000000_add_probe", "CREATE TABLE IF NOT EXISTS probe (x int);");
    let there = async |table: &str| {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        fleet.database().await.query_one(sql, &[&table]).await.unwrap().get::<_, bool>(0)
    };
    let long = |name| fleet.controller(name).lease("20s", "200ms");
    let a = long("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let dir = dir.display().to_string();
    let b = long("b").as_candidate().args(&["--migrations-dir", &dir]);
    let b = b.pause_at("after_step_down,after_claim,mid_migration,before_load").start().await;

    b.process.paused_at("after_step_down").await;
    a.is(Role::SteppedDown, PATIENCE).await;
    assert_eq!((fleet.history().await.len(), there("probe").await), (1, false), "stepped down, not claimed");
    b.process.go_on();
    b.process.paused_at("after_claim").await;
    assert_eq!((fleet.history().await.len(), there("probe").await), (2, false), "claimed, not migrated");
    a.is(Role::Candidate, PATIENCE).await;
    b.process.go_on();
    b.process.paused_at("mid_migration").await;
    assert!(!there("probe").await, "in the middle of it");
    b.is(Role::TakingOver, PATIENCE).await;
    assert_eq!(put(&fleet, &b, "c1", "too early").send().await.refusal(), (503, ErrorCode::TakingOver));
    b.process.go_on();
    b.process.paused_at("before_load").await;
    assert!(there("probe").await, "migrated before it loads");
    b.is(Role::TakingOver, PATIENCE).await;
    b.process.go_on();
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    assert_eq!(put(&fleet, &b, "c1", "now").send().await.status, 202);
    a.process.terminate();
    assert_eq!(a.process.exit_code(PATIENCE).await, 0);

    let broken = fleet.make_dir("broken");
    // Only the rows that are there make it fail: a rehearsal would find what is wrong with the SQL itself.
    let break_it = "CREATE TABLE half (x int); ALTER TABLE computes ADD CHECK (compute_id <> 'c1');";
    write_migration(&broken, "20990102000000_break", break_it);
    let broken = broken.display().to_string();
    let c = long("c").as_candidate().args(&["--dev", "--migrations-dir", &broken]).launch();
    assert_eq!(c.exit_code(PATIENCE).await, 1);
    assert!(c.said("20990102000000_break"), "{}", c.log());
    assert_eq!(b.leads(PATIENCE).await.get(), 4, "the old leader leads again");
    assert!(!there("half").await, "a failed migration leaves nothing");
    let history = fleet.history().await;
    assert_eq!(history[2], (3, "step_down".to_owned(), Some("migration_failed".to_owned())), "{history:?}");
    assert_eq!(history[3], (4, "released".to_owned(), None));
    assert_eq!(put(&fleet, &b, "c1", "and again").send().await.status, 202);
}
