//! The bounded run of CI: one primary is killed under load.

use pgfleet_failover::kills;
use pgfleet_failover::patroni::Death;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_costs_no_acknowledged_write() {
    let name = "a_killed_primary_costs_no_acknowledged_write";
    let Some(killed) = kills::measure(name, &[Death::Server]).await else { return };
    assert!(killed.acknowledged > 0);
    assert!(killed.lost.is_empty(), "acknowledged and not in the database: {:?}", killed.lost);
    assert!(killed.failed.is_empty(), "failed in spite of the retry rule: {:?}", killed.failed);
}
