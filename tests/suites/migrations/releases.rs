//! Real builds of three releases in one cluster.

use pgfleet_api::ErrorCode;
use pgfleet_api::auth::Scope;
use pgfleet_api::controller::Role;
use pgfleet_harness::controller::{Controller, LEASE};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::programs::{AFTER_NEXT, NEXT};
use pgfleet_harness::wait::{stays, wait_until};

use super::{holds, migration, register, writes};

const NOTE: &str =
    "EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'computes'::regclass AND attname = 'note' AND NOT attisdropped)";

/// What a member says of the schema: (may read, may lead).
async fn schema_lets(member: &Controller) -> (bool, bool) {
    let page = member.metrics().await;
    let lets = |access: &str| {
        let line = format!("storage_controller_schema_compatible{{access=\"{access}\"}} ");
        page.lines().find_map(|found| found.strip_prefix(&line)).map(|value| value == "1")
    };
    (lets("read").unwrap(), lets("lead").unwrap())
}

/// An expand step: the next release takes over and migrates; the old one stays a good candidate, and leads again.
#[tokio::test(flavor = "multi_thread")]
async fn two_releases_side_by_side() {
    let Some(fleet) = Fleet::start("two_releases_side_by_side").await else { return };
    let a = fleet.controller("a").memory_door().start_leader().await;
    register(&fleet, &a, "c1").await;
    writes(&fleet, &a, "c1", "by the old one").await;
    assert!(!holds(&fleet, NOTE).await);

    let b = fleet.controller_of(NEXT, "b").memory_door().as_candidate().start_leader().await;
    assert!(holds(&fleet, NOTE).await, "it has migrated");
    assert!(b.process.said("rehearsing the migrations"), "{}", b.process.log());
    writes(&fleet, &b, "c1", "by the next one").await;
    a.follows(&b, PATIENCE).await;
    assert_eq!(schema_lets(&a).await, (true, true));

    let c = fleet.controller("c").as_candidate().start_leader().await;
    writes(&fleet, &c, "c1", "by an old one again").await;
    b.follows(&c, PATIENCE).await;
    assert!(holds(&fleet, NOTE).await);
    let aims =
        fleet.database().await.query("SELECT target_schema FROM leader_history ORDER BY term", &[]).await.unwrap();
    let aims: Vec<String> = aims.iter().map(|row| row.get(0)).collect();
    let newest = "20990201000000_add_compute_note";
    assert!(aims[0] == aims[2] && aims[0] != newest && aims[1] == newest, "{aims:?}");
    let pending = "storage_controller_schema_migrations_pending 0";
    for member in [&a, &b, &c] {
        wait_until("nothing is pending", PATIENCE, async || member.metrics().await.contains(pending)).await;
    }
    fleet.memories_agree(&[&a, &b]).await;
}

/// A contract step is refused while a member is alive that it shuts out: nobody is asked to step down, nothing is touched.
/// When that member has gone, it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_contract_step_waits_for_the_old_members() {
    let Some(fleet) = Fleet::start("a_contract_step_waits_for_the_old_members").await else { return };
    let a = fleet.controller("a").start_leader().await;
    register(&fleet, &a, "c1").await;
    let refused = fleet.controller_of(AFTER_NEXT, "refused").as_candidate().launch();
    assert_eq!(refused.exit_code(PATIENCE).await, 1);
    assert!(refused.said("it shuts out builds below 3"), "{}", refused.log());
    assert!(refused.said(&format!("pgfleet/{} (2)", a.instance_id())), "{}", refused.log());
    assert!(!refused.said("asking the leader to step down"), "{}", refused.log());
    assert_eq!(a.leads(PATIENCE).await.get(), 1);
    assert_eq!(fleet.history().await, [(1, "first".to_owned(), None)]);
    assert!(!holds(&fleet, NOTE).await);

    // The release between them may stay: it is not shut out.
    let b = fleet.controller_of(NEXT, "b").as_candidate().start_leader().await;
    a.process.terminate();
    assert_eq!(a.process.exit_code(PATIENCE).await, 0);
    let c = fleet.controller_of(AFTER_NEXT, "c").as_candidate().start_leader().await;
    assert!(holds(&fleet, "lowest_writer = 3 FROM schema_compat").await);
    b.follows(&c, PATIENCE).await;
    assert_eq!(schema_lets(&b).await, (true, true));
    writes(&fleet, &c, "c1", "after the contract").await;
}

/// Below the lowest writer a member never leads: it asks nobody, and it leaves the fleet without a leader when the last one
/// that may lead is killed. A newer one then leads.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_release_never_leads_a_newer_schema() {
    let Some(fleet) = Fleet::start("an_old_release_never_leads_a_newer_schema").await else { return };
    let b = fleet.controller_of(AFTER_NEXT, "b").start_leader().await;
    register(&fleet, &b, "c1").await;
    let a = fleet.controller("a").as_candidate().start().await;
    a.follows(&b, PATIENCE).await;
    wait_until("it says so", PATIENCE, async || a.process.said("the schema lets builds from 3 on lead")).await;
    assert_eq!(schema_lets(&a).await, (true, false));
    assert!(!a.process.said("asking the leader to step down"), "{}", a.process.log());
    let asked = a.call("POST", "/control/v1/take_over").token(&fleet.keys().scope(Scope::Admin)).send().await;
    assert_eq!(asked.refusal(), (409, ErrorCode::CannotLead));

    b.process.kill().await;
    stays("nobody leads", LEASE * 2, async || {
        a.status().await.unwrap().role == Role::Candidate && fleet.history().await.len() == 1
    })
    .await;
    let c = fleet.controller_of(NEXT, "c").start_leader().await;
    assert_eq!(fleet.history().await[1].1, "crash");
    a.follows(&c, PATIENCE).await;
    writes(&fleet, &c, "c1", "by one that may").await;
}

/// Below the lowest reader it does not even look at the state.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_may_not_read_only_forwards() {
    let Some(fleet) = Fleet::start("a_release_that_may_not_read_only_forwards").await else { return };
    let dir = migration(&fleet, "raise_reader", "UPDATE schema_compat SET lowest_reader = 3, lowest_writer = 3;");
    let b = fleet.controller_of(NEXT, "b").args(&["--dev", "--migrations-dir", &dir]).start_leader().await;
    let a = fleet.controller("a").start().await;
    wait_until("it says so", PATIENCE, async || a.process.said("it only forwards and never leads")).await;
    a.follows(&b, PATIENCE).await;
    assert_eq!(schema_lets(&a).await, (false, false));
    b.process.kill().await;
    stays("nobody leads", LEASE * 2, async || fleet.history().await.len() == 1).await;
}

/// The schema moves on while a member runs: it notices, stands back, and comes back when it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_notices_that_the_schema_moves_on() {
    let Some(fleet) = Fleet::start("a_member_notices_that_the_schema_moves_on").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    assert_eq!(schema_lets(&b).await, (true, true));
    let database = fleet.database().await;
    database.execute("UPDATE schema_compat SET lowest_writer = 9", &[]).await.unwrap();
    wait_until("it notices", PATIENCE, async || schema_lets(&b).await == (true, false)).await;
    a.process.kill().await;
    stays("nobody leads", LEASE * 2, async || b.status().await.unwrap().role == Role::Candidate).await;
    database.execute("UPDATE schema_compat SET lowest_writer = 1", &[]).await.unwrap();
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
}
