//! The first boot of a fleet.

use pgfleet_api::Term;
use pgfleet_api::controller::Role;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::{stays, wait_for};

use super::SECOND;

/// Three controllers meet an empty database at the same moment: one fleet, one leader, one term, nobody dies.
#[tokio::test(flavor = "multi_thread")]
async fn first_boot_twice() {
    let Some(fleet) = Fleet::start("first_boot_twice").await else { return };
    let (a, b, c) =
        tokio::join!(fleet.controller("a").start(), fleet.controller("b").start(), fleet.controller("c").start());
    let members = [&a, &b, &c];
    let leader = wait_for("one of them leads", PATIENCE, async || {
        for member in members {
            if member.status().await.is_some_and(|status| status.role == Role::Leader) {
                return Some(member.instance_id());
            }
        }
        None
    })
    .await;
    for member in members {
        let what = format!("{} knows the leader", member.process.name());
        wait_for(&what, PATIENCE, async || {
            let known = member.status().await?.leader?;
            (known.instance_id == leader && known.term == Term(1)).then_some(())
        })
        .await;
    }
    stays("one leads, two wait", SECOND, async || {
        let mut leaders = 0;
        for member in members {
            member.process.still_runs();
            let status = member.status().await.unwrap();
            assert!(matches!(status.role, Role::Leader | Role::Candidate), "{status:?}");
            leaders += usize::from(status.role == Role::Leader);
        }
        leaders == 1
    })
    .await;
    assert_eq!(fleet.history().await, [(1, "first".to_owned(), None)]);
    let fleets = fleet.database().await.query("SELECT cluster_id FROM cluster", &[]).await.unwrap();
    assert_eq!(fleets.len(), 1, "one identity was minted");
}
