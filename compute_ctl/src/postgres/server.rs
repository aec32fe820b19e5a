//! The server process: started or adopted, waited for, stopped.
//!
//! A postmaster outlives an agent that was killed; the next agent finds it by `postmaster.pid` and its working directory
//! and goes on with it, so there are never two and no session is lost. Its own group keeps a terminal's Ctrl-C from
//! reaching it past the agent.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::process::Child;

use super::metrics::{Start, StartOutcome};
use super::{Options, Postgres, orphans, pidfile};

/// How often files are looked at while the server starts.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often an adopted server, which is no child, is looked at.
const LOOK_AT_ADOPTED_EVERY: Duration = Duration::from_millis(100);
/// An immediate shutdown that takes longer is followed by a kill; the postmaster itself kills its children after 5 s.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);
/// How much of the server's log is read to explain a failed start.
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// The server does not do as it is asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The process could not be made.
    #[error("cannot start {program}")]
    Spawn {
        /// The server program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("PostgreSQL did not start: {said}")]
    Start {
        /// Its own last word.
        said: String,
    },
    /// A running server cannot be watched.
    #[error("cannot watch the running PostgreSQL with pid {pid}")]
    Watch {
        /// Its postmaster.
        pid: i32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A postmaster of ours. Dropping it does not stop it.
#[derive(Debug)]
pub struct Server {
    pid: i32,
    process: Process,
    /// Length of the log when it was started: what comes after is its own.
    log_begin: u64,
    options: Arc<Options>,
}

#[derive(Debug)]
enum Process {
    Child(Child),
    /// The handle makes signals safe from a reused number; the end shows in `/proc`.
    Adopted(OwnedFd),
}

impl Server {
    /// Process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Waits for its end and says how it ended. May be dropped and called again.
    pub async fn ended(&mut self) -> String {
        match &mut self.process {
            Process::Child(child) => match child.wait().await {
                Ok(status) => how(status),
                Err(error) => format!("it cannot be waited for: {error}"),
            },
            Process::Adopted(_) => {
                while pidfile::is_postmaster_of(self.pid, &self.options.data_dir) {
                    tokio::time::sleep(LOOK_AT_ADOPTED_EVERY).await;
                }
                "its exit status went to an earlier agent".to_owned()
            }
        }
    }

    /// Whether it has ended already.
    pub async fn is_gone(&mut self) -> bool {
        tokio::time::timeout(Duration::ZERO, self.ended()).await.is_ok()
    }

    fn has_ended(&mut self) -> Option<String> {
        match &mut self.process {
            Process::Child(child) => child.try_wait().ok().flatten().map(how),
            Process::Adopted(_) => None,
        }
    }

    fn signal(&self, signal: Signal) {
        // A process that has gone is what all signals want.
        let _ = match &self.process {
            Process::Child(_) => Pid::from_raw(self.pid).map_or(Ok(()), |pid| kill_process(pid, signal)),
            Process::Adopted(pidfd) => pidfd_send_signal(pidfd, signal),
        };
    }

    /// Stops it: fast, immediately where that takes too long, and by force where even that does. Returns when it is gone.
    pub async fn stop(mut self) {
        let begun = Instant::now();
        let fast = (Signal::INT, self.options.stop_limit, "stopping it immediately");
        let immediate = (Signal::QUIT, IMMEDIATE_LIMIT, "killing it");
        for (signal, limit, next) in [fast, immediate] {
            self.signal(signal);
            if tokio::time::timeout(limit, self.ended()).await.is_ok() {
                tracing::info!(pid = self.pid, duration_ms = begun.elapsed().as_millis(), "PostgreSQL is stopped");
                return;
            }
            tracing::warn!(pid = self.pid, "PostgreSQL did not stop within {} s: {next}", limit.as_secs());
        }
        // A process that is itself stopped (SIGSTOP) hears nothing else.
        self.signal(Signal::KILL);
        self.ended().await;
        orphans::end(&self.options).await;
        tracing::warn!(pid = self.pid, duration_ms = begun.elapsed().as_millis(), "PostgreSQL is killed");
    }
}

/// How a postmaster ended, in words.
fn how(status: ExitStatus) -> String {
    let hint = match status.signal() {
        Some(9) => "; nobody here sent it: the kernel may have been out of memory, see its log",
        Some(_) | None => "",
    };
    format!("{status}{hint}")
}

impl Postgres {
    /// Goes on with a running server of this data directory, if there is one. One that listens elsewhere, or is on its
    /// way out, is stopped first, and there is none.
    ///
    /// # Errors
    /// There is one and it cannot be watched.
    pub async fn adopt(&self) -> Result<Option<Server>, ServerError> {
        let data_dir = &self.options.data_dir;
        let Some(file) = pidfile::read(data_dir) else { return Ok(None) };
        let watch = |source| ServerError::Watch { pid: file.pid, source };
        let Some(pid) = Pid::from_raw(file.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(watch(error.into())),
        };
        // Looked at after the handle is held, so that the number cannot have changed its owner in between.
        if !pidfile::is_postmaster_of(file.pid, data_dir) {
            return Ok(None);
        }
        let options = Arc::clone(&self.options);
        let mut server = Server { pid: file.pid, process: Process::Adopted(pidfd), log_begin: 0, options };
        loop {
            let now = pidfile::read(data_dir);
            match now.as_ref().and_then(|file| file.status.as_deref()) {
                Some("ready") => match now.as_ref().and_then(|file| self.out_of_reach(file)) {
                    None => break,
                    Some(why) => {
                        tracing::warn!(pid = file.pid, "the running PostgreSQL {why}: starting it again");
                        server.stop().await;
                        return Ok(None);
                    }
                },
                Some("stopping") => {
                    server.ended().await;
                    return Ok(None);
                }
                // It follows a primary and takes no connections at all; ours do.
                Some("standby") => {
                    server.stop().await;
                    return Ok(None);
                }
                Some(_) | None => {}
            }
            if tokio::time::timeout(LOOK_EVERY, server.ended()).await.is_ok() {
                return Ok(None);
            }
        }
        self.metrics.starts_total.inc(Start { outcome: StartOutcome::Adopted });
        tracing::info!(pid = file.pid, "a running PostgreSQL of this data directory is kept");
        Ok(Some(server))
    }

    /// Why the agent could not get in to a server that is ready.
    fn out_of_reach(&self, file: &pidfile::PidFile) -> Option<&'static str> {
        if file.port.is_some_and(|port| port != self.options.port) {
            return Some("listens on another port");
        }
        let here = file.socket_dir.as_ref() == Some(&self.options.socket_dir);
        (!here).then_some("has no socket where the agent looks for it")
    }

    /// Starts the server, after what an earlier one left behind is gone. The caller waits with [`Postgres::wait_ready`].
    ///
    /// # Errors
    /// The process could not be made.
    pub async fn start(&self) -> Result<Server, ServerError> {
        let options = self.options();
        orphans::end(options).await;
        let spawn_error =
            |source| ServerError::Spawn { program: options.programs.postgres.display().to_string(), source };
        let socket_lock = options.socket_dir.join(format!(".s.PGSQL.{}.lock", options.port));
        pidfile::remove_if_dead(&options.data_dir, &socket_lock);
        let log =
            OpenOptions::new().create(true).append(true).mode(0o600).open(self.log_file()).map_err(spawn_error)?;
        let log_begin = log.metadata().map_err(spawn_error)?.len();
        let also = log.try_clone().map_err(spawn_error)?;
        let mut command = self.command(&options.programs.postgres);
        command.arg("-D").arg(&options.data_dir);
        for (name, value) in self.fixed_settings() {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(log).stderr(also).process_group(0);
        let child = tokio::process::Command::from(command).spawn().map_err(spawn_error)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        Ok(Server { pid, process: Process::Child(child), log_begin, options: Arc::clone(&self.options) })
    }

    /// Given on the command line, where no configuration file can override them.
    pub(super) fn fixed_settings(&self) -> [(&'static str, String); 3] {
        let options = self.options();
        [
            ("port", options.port.to_string()),
            ("unix_socket_directories", options.socket_dir.display().to_string()),
            ("logging_collector", "off".to_owned()),
        ]
    }

    /// Waits until a started server takes connections. May be dropped: the server goes on starting.
    ///
    /// # Errors
    /// It ended before.
    pub async fn wait_ready(&self, server: &mut Server) -> Result<(), ServerError> {
        let begun = Instant::now();
        loop {
            if let Some(status) = server.has_ended() {
                self.metrics.starts_total.inc(Start { outcome: StartOutcome::Failed });
                let said = last_word(&self.log_file(), server.log_begin).unwrap_or(status);
                return Err(ServerError::Start { said });
            }
            let file = pidfile::read(&self.options.data_dir);
            if file.is_some_and(|file| file.pid == server.pid && file.status.as_deref() == Some("ready")) {
                let took = begun.elapsed();
                self.metrics.starts_total.inc(Start { outcome: StartOutcome::Ready });
                self.metrics.start_duration_seconds.observe(took.as_secs_f64());
                tracing::info!(pid = server.pid, duration_ms = took.as_millis(), "PostgreSQL is ready");
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The last FATAL or PANIC line that PostgreSQL wrote; its start has no secrets to tell.
fn last_word(log: &Path, from: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    // A log that was cut since then is new from its begin.
    let from = if from > length { 0 } else { from };
    let begin = from.max(length.saturating_sub(LOG_TAIL_BYTES));
    file.seek(SeekFrom::Start(begin)).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    // A port that is taken is told best by the line before the last word.
    let bind = text.lines().rev().find(|line| line.contains("could not bind"));
    let line = bind.or_else(|| text.lines().rev().find(|line| line.contains("FATAL:") || line.contains("PANIC:")))?;
    Some(line.split_once(":  ").map_or(line, |(_, rest)| rest).trim().to_owned())
}
