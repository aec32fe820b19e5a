//! Processes of a local cluster: started so that they outlive this one, recognised for certain, ended in order.
//!
//! Invariant: a signal goes only to a process whose id, start time and boot are those that were written down when it
//! was started; a process id that the kernel gave to somebody else since is nobody of ours.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::layout::failed;
use crate::exit::CliError;

/// How often a condition is looked at while waiting for it.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A process, for certain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Which boot of the machine.
    pub boot_id: String,
}

impl Process {
    /// The process that has this id now.
    pub fn of(pid: u32) -> Option<Self> {
        let (_, start_ticks) = stat(pid)?;
        Some(Self { pid, start_ticks, boot_id: boot_id() })
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, ticks)| ticks == self.start_ticks && state != 'Z' && state != 'X')
            && self.boot_id == boot_id()
    }

    /// Sends a signal if it still runs.
    pub fn signal(&self, signal: Signal) {
        if !self.is_alive() {
            return;
        }
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // It may end in between; that is what was wanted.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it has ended; false when the time is over.
    pub async fn ended_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }

    /// Asks with one signal, and insists with another when the time is over.
    pub async fn stop(&self, ask: Signal, limit: Duration, insist: Signal) {
        self.signal(ask);
        if !self.ended_within(limit).await {
            self.signal(insist);
            self.ended_within(Duration::from_secs(5)).await;
        }
    }
}

/// Starts a program with its output in `log`, in a process group of its own, so that a Ctrl-C at the terminal does not
/// reach it. Its environment is what `command` set, PATH and RUST_LOG.
pub fn start_detached(mut command: Command, log: &Path) -> Result<Process, CliError> {
    let program = Path::new(command.as_std().get_program()).to_owned();
    let out = File::options().create(true).append(true).open(log).map_err(|error| failed("open", log, &error))?;
    let err = out.try_clone().map_err(|error| failed("open", log, &error))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .kill_on_drop(false)
        .process_group(0)
        .spawn()
        .map_err(|error| failed("start", &program, &error))?;
    child
        .id()
        .and_then(Process::of)
        .ok_or_else(|| CliError::Failed(format!("{} ended at once; see {}", program.display(), log.display())))
}

/// A command with a clean environment: nothing of the caller's PG* variables or tokens leaks into a server.
pub fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(dir);
    for name in ["PATH", "RUST_LOG", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("LC_ALL", "C");
    command
}

/// The last line a program wrote, for the line that says why it did not start.
pub fn last_line(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it wrote nothing").trim().to_owned()
}

/// State letter and start time from `/proc`.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the fields are counted from its end.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_recognised_by_its_start_and_ended() {
        let dir = std::env::temp_dir();
        let log = dir.join(format!("pgfleet-process-{}.log", std::process::id()));
        let mut sleeper = command(Path::new("/bin/sleep"), &dir);
        sleeper.arg("60");
        let process = start_detached(sleeper, &log).unwrap();
        assert!(process.is_alive());
        let stranger = Process { start_ticks: process.start_ticks + 1, ..process.clone() };
        stranger.stop(Signal::KILL, Duration::from_millis(50), Signal::KILL).await;
        assert!(process.is_alive(), "a stranger with the same id is left alone");
        process.stop(Signal::TERM, Duration::from_secs(5), Signal::KILL).await;
        assert!(!process.is_alive());
        let _ = fs::remove_file(log);
    }
}
