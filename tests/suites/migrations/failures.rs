//! Migrations that do not go well: nothing of them is left, and somebody leads.

use std::time::{Duration, Instant};

use pgfleet_harness::controller::LEASE;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_until;

use super::{holds, migration, register, writes};

/// SQL that cannot run is found before anybody steps down for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_that_fails_asks_nobody() {
    let Some(fleet) = Fleet::start("a_rehearsal_that_fails_asks_nobody").await else { return };
    let a = fleet.controller("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let dir = migration(&fleet, "break_it", "CREATE TABLE half (x int); SELECT 1 / 0;");
    let b = fleet.controller("b").as_candidate().args(&["--dev", "--migrations-dir", &dir]).launch();
    assert_eq!(b.exit_code(PATIENCE).await, 1);
    assert!(b.said("migration 20990101000000_break_it failed: division by zero (22012)"), "{}", b.log());
    assert!(!b.said("asking the leader to step down"), "{}", b.log());
    assert_eq!(a.leads(PATIENCE).await.get(), 1);
    assert_eq!(fleet.history().await, [(1, "first".to_owned(), None)]);
    let left = "count(*) = 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname LIKE 'pgfleet%' OR c.relname = 'half'";
    assert!(holds(&fleet, left).await, "the rehearsal leaves nothing");
    writes(&fleet, &a, "c1", "undisturbed").await;
}

/// Ends a migration that a successor began, and says how: the old leader leads again at once, and its writes work.
async fn given_up(fleet: &Fleet, up: &str, arguments: &[&str], said: &str) {
    // A long lease: nobody waits for its end.
    let long = |name| fleet.controller(name).lease("30s", "300ms");
    let a = long("a").start_leader().await;
    register(fleet, &a, "c1").await;
    let reader = fleet.database().await;
    reader.batch_execute("BEGIN; LOCK TABLE observed IN ACCESS SHARE MODE").await.unwrap();
    let dir = migration(fleet, "go_wrong", up);
    let b = fleet.controller("b").lease("5s", "300ms").as_candidate();
    let b = b.args(&["--dev", "--migrations-dir", &dir]).args(arguments).launch();
    assert_eq!(b.exit_code(PATIENCE).await, 1);
    let ended = Instant::now();
    assert!(b.said(said), "{}", b.log());
    assert_eq!(a.leads(PATIENCE).await.get(), 3);
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    writes(fleet, &a, "c1", "by the old leader").await;
    assert!(holds(fleet, "to_regclass('half') IS NULL").await);
    let note = "ended = 'migration_failed' AND note LIKE '%20990101000000_go_wrong%' AND target_schema = '20990101000000_go_wrong'
                FROM leader_history WHERE term = 2";
    assert!(holds(fleet, note).await, "{:?}", fleet.history().await);
    let history = fleet.history().await;
    assert_eq!(history[2], (3, "released".to_owned(), None), "{history:?}");
}

/// Slow by the rows that are there, so that the rehearsal, which has none, does not see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_over_its_budget_gives_the_row_back() {
    let Some(fleet) = Fleet::start("a_migration_over_its_budget_gives_the_row_back").await else { return };
    let slow = "CREATE TABLE half (x int); SELECT pg_sleep(600) FROM computes;";
    given_up(&fleet, slow, &["--migration-budget", "2s"], "took longer than its budget of 2000 ms").await;
}

/// Somebody reads the table all the time, a backup for example. The budget is not spent on waiting for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_a_reader_holds_up_gives_the_row_back() {
    let Some(fleet) = Fleet::start("a_migration_that_a_reader_holds_up_gives_the_row_back").await else { return };
    let blocked = "CREATE TABLE half (x int); ALTER TABLE observed ADD COLUMN half int;";
    given_up(&fleet, blocked, &["--migration-budget", "10m"], "other sessions hold locks that it needs").await;
}

/// SIGTERM does not wait for a long migration: it is rolled back, the row is released, the old leader leads again.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_a_migration() {
    let Some(fleet) = Fleet::start("sigterm_in_the_middle_of_a_migration").await else { return };
    let dir = migration(&fleet, "take_long", "CREATE TABLE half (x int); SELECT pg_sleep(600) FROM computes;");
    let long = |name| fleet.controller(name).lease("60s", "300ms");
    let a = long("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let b =
        long("b").as_candidate().args(&["--dev", "--migrations-dir", &dir, "--migration-budget", "10m"]).start().await;
    let sleeps = format!(
        "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgfleet/{}' AND wait_event = 'PgSleep')",
        b.instance_id()
    );
    wait_until("it migrates", PATIENCE, async || holds(&fleet, &sleeps).await).await;
    let told = Instant::now();
    b.process.terminate();
    assert_eq!(a.leads(PATIENCE).await.get(), 3);
    // Well before the drain is over, at whose end the process goes.
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    assert_eq!(b.process.exit_code(PATIENCE).await, 0);
    assert_eq!(fleet.history().await[1].2.as_deref(), Some("released"));
    assert!(holds(&fleet, "to_regclass('half') IS NULL").await);
    writes(&fleet, &a, "c1", "by the old leader").await;
}

/// A leader that is frozen in the middle of a migration is replaced like every other; thawed, it can do nothing.
#[tokio::test(flavor = "multi_thread")]
async fn frozen_in_the_middle_of_a_migration() {
    let Some(fleet) = Fleet::start("frozen_in_the_middle_of_a_migration").await else { return };
    let dir = migration(&fleet, "make_probe", "CREATE TABLE probe (x int);");
    let a = fleet.controller("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let b = fleet.controller("b").as_candidate().args(&["--migrations-dir", &dir]).pause_at("mid_migration");
    let b = b.start().await;
    b.process.paused_at("mid_migration").await;
    a.follows(&b, PATIENCE).await;
    let frozen = Instant::now();
    b.process.freeze().await;
    assert_eq!(a.leads(PATIENCE).await.get(), 3);
    assert!(frozen.elapsed() < LEASE + Duration::from_secs(2), "{:?}", frozen.elapsed());
    writes(&fleet, &a, "c1", "by the old leader").await;
    b.process.go_on();
    b.process.thaw();
    b.follows(&a, PATIENCE).await;
    assert!(holds(&fleet, "to_regclass('probe') IS NULL").await, "half a migration is nowhere");
    assert_eq!(a.leads(PATIENCE).await.get(), 3);
    writes(&fleet, &a, "c1", "undisturbed").await;
}
