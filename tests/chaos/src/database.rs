//! Small things done to PostgreSQL from outside: standing still, locks held, sessions ended.
//!
//! Who calls it: [`crate::engine`].

use std::time::Duration;

use pgfleet_api::InstanceId;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::{TestClient, connect};
use rustix::process::{Pid, Signal, kill_process};

/// How long a session may take to come and to get what it asks for.
const LIMIT: Duration = Duration::from_secs(1);

/// Name of the copy of the data directory; there is one at a time.
const COPY: &str = "chaos";

/// A session in the fleet's database; nothing while it is away.
pub async fn session(fleet: &Fleet) -> Option<TestClient> {
    tokio::time::timeout(LIMIT, connect(fleet.database_url())).await.ok()?.ok()
}

/// A session that holds what this statement takes, until it is dropped. Nothing if it did not get it in time.
pub async fn hold(fleet: &Fleet, statement: &str) -> Option<TestClient> {
    let client = session(fleet).await?;
    let statements = format!("BEGIN; {statement}");
    tokio::time::timeout(LIMIT, client.batch_execute(&statements)).await.ok()?.ok()?;
    Some(client)
}

/// Ends all sessions of a member.
pub async fn end_sessions(fleet: &Fleet, of: InstanceId) {
    let Some(client) = session(fleet).await else { return };
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    // Where the database goes away meanwhile, the sessions do too.
    drop(tokio::time::timeout(LIMIT, client.query(sql, &[&format!("pgfleet/{of}")])).await);
}

/// Whether some member's migration is in its sleep.
pub async fn migration_sleeps(fleet: &Fleet) -> bool {
    let Some(client) = session(fleet).await else { return false };
    let sql = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgfleet/%' AND wait_event = 'PgSleep'";
    let asked = tokio::time::timeout(LIMIT, client.query(sql, &[])).await;
    asked.is_ok_and(|rows| rows.is_ok_and(|rows| !rows.is_empty()))
}

/// Keeps a copy of the data directory.
pub async fn copy(fleet: &Fleet) {
    signal_all(fleet, Signal::CONT);
    fleet.cluster().copy_data(COPY).await.unwrap_or_else(|error| panic!("{error}"));
}

/// Puts the copy in the place of the data directory, as a failover to a standby that was behind would.
pub async fn put_back(fleet: &Fleet) {
    signal_all(fleet, Signal::CONT);
    fleet.cluster().put_back(COPY).await.unwrap_or_else(|error| panic!("{error}"));
}

/// Sends a signal to the postmaster and all its children.
pub fn signal_all(fleet: &Fleet, signal: Signal) {
    let Some(postmaster) = fleet.cluster().server_pid() else { return };
    for pid in children(postmaster).into_iter().chain([postmaster]) {
        if let Some(pid) = Pid::from_raw(pid) {
            // It may have ended since it was looked up.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Processes whose parent this is.
fn children(parent: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
