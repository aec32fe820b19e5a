//! Processes that outlive their postmaster. While one of them lives it holds the old shared memory, and PostgreSQL does
//! not start; one that only computes does not notice for hours that its postmaster is gone.
//!
//! They are ended as a postmaster ends its children after a crash: asked first, killed a little later. Nothing they do
//! is lost by that: what they had not committed is undone by the recovery that follows.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Options, Postgres, pidfile};

/// How long they may take to end after each signal.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often they are looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Postgres {
    /// Ends what a dead postmaster left behind. Does nothing while a postmaster works in the directory.
    pub async fn end_orphans(&self) {
        end(self.options()).await;
    }
}

/// Ends what a dead postmaster left behind. Does nothing while a postmaster works in the directory.
pub(super) async fn end(options: &Options) {
    // A clean stop leaves no pid file, and so nobody.
    let Some(file) = pidfile::read(&options.data_dir) else { return };
    if pidfile::is_postmaster_of(file.pid, &options.data_dir) {
        return;
    }
    for signal in [Signal::QUIT, Signal::KILL] {
        let left = find(options);
        if left.is_empty() {
            return;
        }
        tracing::warn!(
            postmaster = file.pid,
            count = left.len(),
            "PostgreSQL's postmaster is dead and {} of its processes live: ending them ({})",
            left.len(),
            if signal == Signal::QUIT { "SIGQUIT" } else { "SIGKILL" }
        );
        for process in &left {
            // One that has gone by itself is what we want.
            let _ = pidfd_send_signal(process, signal);
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if find(options).is_empty() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    tracing::error!(postmaster = file.pid, "processes of a dead postmaster cannot be ended: PostgreSQL does not start");
}

/// Server processes that work in the directory and are no children of such a process.
fn find(options: &Options) -> Vec<OwnedFd> {
    let Ok(data_dir) = options.data_dir.canonicalize() else { return Vec::new() };
    let program = &options.programs.postgres;
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_server_process(*pid, &data_dir, program))
        .filter(|pid| !parent(*pid).is_some_and(|parent| is_server_process(parent, &data_dir, program)))
        .filter_map(|pid| {
            let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // Looked at again with the handle held: the number cannot change its owner any more.
            is_server_process(pid, &data_dir, program).then_some(handle)
        })
        .collect()
}

fn is_server_process(pid: i32, data_dir: &Path, program: &Path) -> bool {
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).ok();
    // The program of a server may have been replaced under it, and is then called "(deleted)".
    let runs_it = |exe: &Path| exe.to_string_lossy().trim_end_matches(" (deleted)") == program.to_string_lossy();
    link("cwd").is_some_and(|cwd| cwd == data_dir) && link("exe").is_some_and(|exe| runs_it(&exe))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The state and the parent follow the name, which is in parentheses and may hold some.
    stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok()
}
