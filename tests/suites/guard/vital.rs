//! A task that the process cannot do without ends early: the process ends in order.

use std::time::{Duration, Instant};

use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;

use super::agents::Agent;

/// The engine's own loop panics: exit code 1, one line that names the task, and the row is released, so that another
/// member leads without waiting for a lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_vital_task_that_panics_ends_the_process_in_order() {
    let Some(fleet) = Fleet::start("a_vital_task_that_panics_ends_the_process_in_order").await else { return };
    let lease = Duration::from_secs(60);
    let a = fleet.controller("a").lease("60s", "300ms").panic_at("in_engine:c1").start_leader().await;
    let b = fleet.controller("b").lease("60s", "300ms").start().await;
    b.follows(&a, PATIENCE).await;
    let agent = Agent::start("c1").await;
    let begun = Instant::now();
    agent.register(&fleet.client(&[&a])).await;
    assert_eq!(a.process.exit_code(PATIENCE).await, 1, "{}", a.process.log());
    let log = a.process.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("storage_controller: error: task reconcile/engine panicked: in_engine of c1"), "{log}");
    assert_eq!(log.lines().filter(|line| line.starts_with("storage_controller: error: ")).count(), 1, "{log}");

    b.leads(PATIENCE).await;
    assert!(begun.elapsed() < lease / 2, "{:?}", begun.elapsed());
    let history = fleet.history().await;
    assert_eq!(history[0], (1, "first".to_owned(), Some("released".to_owned())), "{history:?}");
    assert_eq!(history[1].1, "released");
    // What was accepted is not lost with the process.
    agent.has(1).await;
}
