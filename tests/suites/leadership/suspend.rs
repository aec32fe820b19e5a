//! The database is away for longer than a lease: the leader stands still, nobody takes its place, and it goes on.

use std::time::Duration;

use pgfleet_api::controller::Role;
use pgfleet_harness::controller::LEASE;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::load::Load;
use pgfleet_harness::postgres::StopMode;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::stays;
use rustix::process::{Pid, Signal, kill_process};

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

/// Every process of the server, so that it neither answers nor refuses.
fn signal_server(fleet: &Fleet, signal: Signal) {
    let postmaster = fleet.cluster().server_pid().unwrap();
    let parent = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if pid == postmaster || parent(&stat) == Some(postmaster) {
            // One that has just ended needs no signal.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
        }
    }
}

/// The database hangs for longer than the lease: connections stay open and nothing is answered. The leader is suspended,
/// and it is the same one that leads when the database goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_changes_no_leader() {
    let Some(fleet) = Fleet::with_own_server("a_database_that_hangs_changes_no_leader").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    register(&fleet, &a, "c1").await;
    signal_server(&fleet, Signal::STOP);
    a.is(Role::Suspended, PATIENCE).await;
    stays("nobody takes its place", LEASE + Duration::from_millis(500), async || {
        let (a, b) = (a.status().await, b.status().await);
        a.is_some_and(|now| now.role == Role::Suspended) && b.is_some_and(|now| now.role == Role::Candidate)
    })
    .await;
    signal_server(&fleet, Signal::CONT);
    assert_eq!(a.leads(PATIENCE).await.get(), 1, "the same term");
    assert_eq!(put(&fleet, &a, "c1", "afterwards").send().await.status, 202);
    assert_eq!(fleet.history().await, [(1, "first".to_owned(), None)]);
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
