//! The database is away for longer than a lease: the leader stands still, nobody takes its place, and it goes on.

use std::time::Duration;

use pgfleet_api::controller::Role;
use pgfleet_harness::controller::LEASE;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::load::Load;
use pgfleet_harness::postgres::StopMode;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::stays;

use super::{id, put, register, stored};

/// Killed under writes, and away for longer than the lease. The leader is suspended, refuses what it cannot do, keeps its
/// term, and gets the row back; what it had accepted is there. The candidates count the lease anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_changes_no_leader() {
    let Some(fleet) = Fleet::with_own_server("a_long_outage_changes_no_leader").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    let c = fleet.controller("c").start().await;
    b.follows(&a, PATIENCE).await;
    c.follows(&a, PATIENCE).await;
    register(&fleet, &a, "c1").await;
    let load = Load::start(&fleet, &[&a, &b], &[id("c1")]);
    load.goes_on("load before the outage", 30).await;

    fleet.cluster().stop(StopMode::Immediate).await.unwrap();
    a.is(Role::Suspended, PATIENCE).await;
    stays("nobody takes its place", LEASE + Duration::from_millis(500), async || {
        let mut roles = Vec::new();
        for member in [&a, &b, &c] {
            roles.push(member.status().await.map(|status| status.role));
        }
        roles == [Some(Role::Suspended), Some(Role::Candidate), Some(Role::Candidate)]
    })
    .await;
    let refused = put(&fleet, &a, "c1", "while suspended").send().await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    fleet.cluster().start_again().await.unwrap();
    assert_eq!(a.leads(PATIENCE).await.get(), 1, "the same term");

    load.goes_on("load after the outage", 30).await;
    load.finish().await.is_in_the_history(&fleet).await;
    assert_eq!(put(&fleet, &a, "c1", "afterwards").send().await.status, 202);
    assert_eq!(stored(&fleet, "c1").await.unwrap().1, "afterwards");
    assert_eq!(fleet.history().await, [(1, "first".to_owned(), None)]);
    let page = a.call("GET", "/metrics").send().await.body;
    assert!(page.contains("storage_controller_leadership_suspensions_total 1"), "{page}");
}

/// A suspended leader that is told to go, goes, although it can tell nobody; after the outage another one leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_leader_is_told_to_go() {
    let Some(fleet) = Fleet::with_own_server("a_suspended_leader_is_told_to_go").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    fleet.cluster().stop(StopMode::Immediate).await.unwrap();
    a.is(Role::Suspended, PATIENCE).await;
    a.process.terminate();
    assert_eq!(a.process.exit_code(PATIENCE).await, 0);
    fleet.cluster().start_again().await.unwrap();
    assert_eq!(b.leads(PATIENCE).await.get(), 2);
    assert_eq!(fleet.history().await[1].1, "crash", "its port refuses");
}
