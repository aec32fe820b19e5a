//! The floor of a failover: when the new primary takes a write of a client that does nothing else.

use std::time::{Duration, Instant};

use pgfleet_harness::wait::wait_for;

use crate::patroni::{PATIENCE, Patroni};

/// One attempt. A commit may wait for a standby.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Makes the table that it writes to.
pub async fn prepare(patroni: &Patroni) {
    let made = patroni.primary("postgres").await.batch_execute("CREATE TABLE floor (n integer)").await;
    made.unwrap_or_else(|error| panic!("no table for the floor: {error:?}"));
}

/// Waits until a session at the primary, whichever it is, has committed a row.
pub async fn first_write(patroni: &Patroni) -> Instant {
    wait_for("the new primary takes writes", PATIENCE, async || {
        let write =
            async { patroni.try_primary("postgres").await?.batch_execute("INSERT INTO floor VALUES (1)").await.ok() };
        tokio::time::timeout(ATTEMPT, write).await.ok().flatten().map(|()| Instant::now())
    })
    .await
}
