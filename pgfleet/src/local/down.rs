//! `pgfleet local down`: ends the agents (each stops its PostgreSQL), the controllers, the database, and removes what
//! the cluster made.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use super::layout::Layout;
use super::postgres::{at_work_in, postmaster, stop_server};
use super::process::Process;
use super::state::State;
use crate::exit::CliError;
use crate::output::print;

pub async fn run(dir: Option<PathBuf>) -> Result<(), CliError> {
    let layout = Layout::new(dir)?;
    let place = layout.root.display().to_string();
    if !layout.exists()? {
        return print(&format!("no local cluster in {place}"));
    }
    let lock = layout.lock()?;
    if let Some(state) = State::read(&layout)? {
        stop(&layout, &state).await?;
    }
    layout.remove()?;
    drop(lock);
    print(&format!("the local cluster in {place} is gone"))
}

/// Ends every process of the cluster, in order. An error names what would not end.
pub async fn stop(layout: &Layout, state: &State) -> Result<(), CliError> {
    let agents: Vec<_> = state.computes.iter().map(|compute| compute.process.clone()).collect();
    stop_all(&agents, Duration::from_secs(30)).await;
    for compute in &state.computes {
        // An agent that was killed leaves its PostgreSQL behind.
        let data = layout.compute_data(compute.id.as_str());
        if let Some(server) = postmaster(&data) {
            stop_server(&server).await;
        }
    }
    let controllers: Vec<_> = state.controllers.iter().map(|controller| controller.process.clone()).collect();
    stop_all(&controllers, Duration::from_secs(15)).await;
    // The database may run although its start was never written down.
    if let Some(server) = postmaster(&layout.database_data()) {
        stop_server(&server).await;
    }
    let mut left = Vec::new();
    // What was interrupted while it started, or is just about to end, still works in its directory.
    for dir in [layout.database(), layout.root.join("computes")] {
        for process in at_work_in(&dir) {
            process.ended_within(Duration::from_secs(5)).await;
        }
        left.extend(at_work_in(&dir));
    }
    left.extend(agents.into_iter().chain(controllers).filter(Process::is_alive));
    if left.is_empty() {
        return Ok(());
    }
    let pids = left.iter().map(|process| process.pid.to_string()).collect::<Vec<_>>().join(", ");
    Err(CliError::Failed(format!("these processes would not end: {pids}; nothing was removed")))
}

/// Asks all at once, so that they end side by side, then insists.
async fn stop_all(processes: &[Process], limit: Duration) {
    for process in processes {
        process.signal(Signal::TERM);
    }
    for process in processes {
        if !process.ended_within(limit).await {
            process.stop(Signal::KILL, Duration::from_secs(5), Signal::KILL).await;
        }
    }
}
