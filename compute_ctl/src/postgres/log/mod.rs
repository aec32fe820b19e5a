//! PostgreSQL's log, said again by the agent.
//!
//! PostgreSQL writes into a file of the state directory and so never waits for the agent, whether that lives or not. One
//! task follows the file from where it ended when the agent began, says every message again with its level and without
//! secrets (`redact`), and cuts the file when it has grown too long. Started by `app`. It decides nothing: what a line says
//! is for people and for counters.

mod line;
mod redact;

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(in crate::postgres) use line::Level;
use line::{Event, Joiner};
use tokio_util::sync::CancellationToken;

use super::{Postgres, PostgresMetrics};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Most that is read at one look; what is written faster is passed over.
const READ_LIMIT_BYTES: u64 = 1024 * 1024;
/// Messages that are said again per second, and at once after a silence.
const RATE_PER_SECOND: u32 = 200;
const BURST: u32 = 1000;
/// How often it is said that messages were left out.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// After the end of the agent's own work this is how often the rest is read.
const LAST_LOOKS: u32 = 2;

/// Follows the log of one data directory.
pub struct LogFollower {
    path: PathBuf,
    /// Length at which the file is cut.
    limit_bytes: u64,
    metrics: Arc<PostgresMetrics>,
    position: u64,
    /// The begin of a line whose end is not written yet.
    partial: Vec<u8>,
    joiner: Joiner,
    allowance: u32,
    refilled: Instant,
    left_out: u64,
    told: Instant,
}

impl Postgres {
    /// A follower that begins at the present end of the log, before anything is started.
    #[must_use]
    pub fn follow_log(&self) -> LogFollower {
        let path = self.log_file();
        let position = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        LogFollower {
            path,
            limit_bytes: self.options.log_limit_bytes,
            metrics: self.metrics(),
            position,
            partial: Vec::new(),
            joiner: Joiner::default(),
            allowance: BURST,
            refilled: Instant::now(),
            left_out: 0,
            told: Instant::now(),
        }
    }
}

impl LogFollower {
    /// Follows until the token is cancelled, and says the last words then.
    ///
    /// # Errors
    /// None; the type is the task's.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), Infallible> {
        let mut told = false;
        while !token.is_cancelled() {
            match self.look() {
                Ok(()) => told = false,
                Err(error) if !told => {
                    tracing::warn!("PostgreSQL's log {} cannot be read: {error}", self.path.display());
                    told = true;
                }
                Err(_) => {}
            }
            let _ = tokio::time::timeout(LOOK_EVERY, token.cancelled()).await;
        }
        for _ in 0..LAST_LOOKS {
            // What cannot be read now stands in the file.
            let _ = self.look();
        }
        Ok(())
    }

    /// Reads what is new. A message is complete when another begins, or when nothing more has come by the next look.
    fn look(&mut self) -> io::Result<()> {
        self.refill();
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length < self.position {
            // Somebody cut it.
            self.position = 0;
            self.partial.clear();
        }
        if length == self.position {
            if let Some(event) = self.joiner.take() {
                self.say(&event);
            }
            self.tell();
            return self.cut_if_long(length);
        }
        if length - self.position > READ_LIMIT_BYTES {
            let from = length - READ_LIMIT_BYTES;
            tracing::warn!(
                skipped_bytes = from - self.position,
                "PostgreSQL's log grows too fast to be said again; it stands in {}",
                self.path.display()
            );
            self.position = from;
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = std::mem::take(&mut self.partial);
        self.position += file.take(READ_LIMIT_BYTES).read_to_end(&mut bytes)? as u64;
        self.take_lines(bytes);
        self.tell();
        Ok(())
    }

    fn take_lines(&mut self, mut bytes: Vec<u8>) {
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.partial = bytes.split_off(end);
        if self.partial.len() as u64 > READ_LIMIT_BYTES {
            self.partial.clear();
        }
        let text = String::from_utf8_lossy(&bytes);
        for line in text.lines() {
            if let Some(event) = self.joiner.push(line) {
                self.say(&event);
            }
        }
    }

    fn say(&mut self, event: &Event) {
        self.metrics.logged(event.level);
        if event.backend_crash {
            self.metrics.backend_crashed();
            tracing::warn!(
                "a process of PostgreSQL was ended by a signal: all its sessions are cut while it recovers; signal 9 from \
                 nobody here is the kernel's when it is out of memory, see its log"
            );
        }
        if self.allowance == 0 && event.level != Level::Error {
            self.left_out += 1;
            self.metrics.left_out();
            return;
        }
        self.allowance = self.allowance.saturating_sub(1);
        let text = redact::redact(&event.text);
        let more = match event.cut_bytes {
            0 => String::new(),
            bytes => format!(" … ({bytes} bytes more)"),
        };
        match event.level {
            Level::Debug => tracing::debug!(target: "postgres", "PG: {text}{more}"),
            Level::Info => tracing::info!(target: "postgres", "PG: {text}{more}"),
            Level::Warn => tracing::warn!(target: "postgres", "PG: {text}{more}"),
            Level::Error => tracing::error!(target: "postgres", "PG: {text}{more}"),
        }
    }

    fn refill(&mut self) {
        let elapsed = u32::try_from(self.refilled.elapsed().as_millis()).unwrap_or(u32::MAX);
        let more = elapsed.saturating_mul(RATE_PER_SECOND) / 1000;
        if more > 0 {
            self.allowance = self.allowance.saturating_add(more).min(BURST);
            self.refilled = Instant::now();
        }
    }

    fn tell(&mut self) {
        if self.left_out == 0 || self.told.elapsed() < TELL_EVERY {
            return;
        }
        tracing::warn!(
            left_out = self.left_out,
            "{} messages of PostgreSQL were not said again: more than {RATE_PER_SECOND} a second; they stand in {}",
            self.left_out,
            self.path.display()
        );
        self.left_out = 0;
        self.told = Instant::now();
    }

    /// Keeps the file from filling the disk. One earlier part is kept beside it. PostgreSQL appends, so it goes on at the
    /// new end; a line written between the copy and the cut is lost.
    fn cut_if_long(&mut self, length: u64) -> io::Result<()> {
        if length < self.limit_bytes {
            return Ok(());
        }
        let earlier = earlier(&self.path);
        std::fs::copy(&self.path, &earlier)?;
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
        self.position = 0;
        tracing::info!(bytes = length, "PostgreSQL's log was cut; the part before is {}", earlier.display());
        Ok(())
    }
}

fn earlier(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}
