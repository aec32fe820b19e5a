//! A process under test: its log, its signals, its end. Killed by its id when the value goes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{wait_for, wait_until};

/// How long a process may take to do what a test waits for, where the test does not say otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A process that a test started.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its output at the end of `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log);
        let (out, err) = match (open(), open()) {
            (Ok(out), Ok(err)) => (out, err),
            (Err(error), _) | (_, Err(error)) => panic!("{} cannot be opened: {error}", log.display()),
        };
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let pid = Pid::from_child(&child);
        Self { name: name.to_owned(), pid, child: Mutex::new(child), log: log.to_path_buf() }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// What it was called by the test.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        let ended = self.lock().try_wait();
        ended.unwrap_or_else(|error| panic!("{} cannot be waited for: {error}", self.name))
    }

    /// Waits for its end and gives its exit code; -1 after a signal.
    pub async fn exit_code(&self, limit: Duration) -> i32 {
        let what = format!("{} has ended", self.name);
        wait_for(&what, limit, async || self.ended()).await.code().unwrap_or(-1)
    }

    /// Sends a signal, unless it has ended: its id may be somebody else's then.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.lock();
        if matches!(child.try_wait(), Ok(None)) {
            kill_process(self.pid, signal).unwrap_or_else(|error| panic!("no signal to {}: {error}", self.name));
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.exit_code(PATIENCE).await;
    }

    /// SIGSTOP, and waits until every thread stands still.
    pub async fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until("the process is stopped", PATIENCE, async || self.state() == Some('T')).await;
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it says that it stands at this pause point.
    pub async fn paused_at(&self, point: &str) {
        let line = format!("pgfleet: paused at {point} pid {}", self.pid());
        let what = format!("{} is paused at {point}", self.name);
        wait_until(&what, PATIENCE, async || {
            self.still_runs();
            self.said(&line)
        })
        .await;
    }

    /// Lets it go on from a pause point.
    pub fn go_on(&self) {
        self.signal(Signal::USR1);
    }

    /// Whether its log has this text.
    pub fn said(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// All it wrote.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Panics if it has ended.
    pub fn still_runs(&self) {
        if let Some(status) = self.ended() {
            panic!("{} has ended with {status}", self.name);
        }
    }

    /// State letter in `/proc`.
    fn state(&self) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        text.rsplit_once(") ")?.1.chars().next()
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Whether it has ended by itself or now: afterwards it is gone and reaped.
        drop(child.kill());
        drop(child.wait());
    }
}
