//! When a member must not trust what it has: migrations that are pending, and a database that lost changes.

use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::{stays, wait_until};

use super::{hand_over, is_warm, metric, registration};

const LOADS: &str = "storage_controller_follower_reads_total{read=\"load\"}";

/// A program that carries a migration which has not run stays cold, and warms up by itself once somebody has run it.
#[tokio::test(flavor = "multi_thread")]
async fn cold_until_its_migrations_have_run() {
    let Some(fleet) = Fleet::start("cold_until_its_migrations_have_run").await else { return };
    let dir = fleet.make_dir("migrations").join("20990101000000_add_probe");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("up.sql"), "CREATE TABLE probe (x int);").unwrap();
    std::fs::write(dir.join("down.sql"), "DROP TABLE probe;").unwrap();
    let dir = dir.parent().unwrap().display().to_string();
    let a = fleet.controller("a").memory_door().start_leader().await;
    fleet.client(&[&a]).register(&"c1".parse().unwrap(), &registration(Some(marked("x")))).await.unwrap();
    let new = |name| fleet.controller(name).memory_door().args(&["--migrations-dir", &dir]);
    let b = new("b").start().await;
    let c = new("c").start().await;
    b.follows(&a, PATIENCE).await;
    stays("they are cold", std::time::Duration::from_secs(1), async || {
        fleet.memory_of(&b).await.is_none() && fleet.memory_of(&c).await.is_none()
    })
    .await;
    assert_eq!(hand_over(&fleet, &a, &b).await, 2);
    wait_until("another schema: loaded afresh", PATIENCE, async || metric(&a, LOADS).await > 1.0).await;
    is_warm(&c).await;
    fleet.memories_agree(&[&a, &c]).await;
    assert_eq!(hand_over(&fleet, &b, &c).await, 3);
    assert_eq!(metric(&c, LOADS).await, 1.0, "warm when it took over");
}

/// A database that was put back has less than the memory: it is loaded again, and so is that of the leader, which
/// begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lost_changes_is_loaded_afresh() {
    let Some(fleet) = Fleet::with_own_server("a_database_that_lost_changes_is_loaded_afresh").await else { return };
    let a = fleet.controller("a").memory_door().start_leader().await;
    let b = fleet.controller("b").memory_door().start().await;
    let client = fleet.client(&[&a, &b]);
    let make = async |name: &str| client.register(&name.parse().unwrap(), &registration(None)).await.map(drop).unwrap();
    make("c1").await;
    make("c2").await;
    is_warm(&b).await;
    fleet.cluster().copy_data("two").await.unwrap();
    make("c3").await;
    is_warm(&b).await;
    fleet.memories_agree(&[&b]).await;
    let loads = metric(&b, LOADS).await;
    fleet.cluster().put_back("two").await.unwrap();
    wait_until("the candidate has loaded again", PATIENCE, async || metric(&b, LOADS).await > loads).await;
    // The leader's next write finds it; whoever leads then goes on from what is there.
    let body = registration(Some(marked("y")));
    let both = fleet.client(&[&a, &b]);
    both.register(&"c4".parse().unwrap(), &body).await.unwrap();
    let list = both.list(&Default::default()).await.unwrap();
    let ids: Vec<String> = list.computes.iter().map(|view| view.compute_id.to_string()).collect();
    assert_eq!(ids, ["c1", "c2", "c4"]);
    let mut candidates = vec![];
    for member in [&a, &b] {
        if member.status().await.unwrap().role == pgfleet_api::controller::Role::Candidate {
            candidates.push(member);
        }
    }
    assert!(!candidates.is_empty());
    fleet.memories_agree(&candidates).await;
}
