//! The schema of a database, as `pg_dump --schema-only` writes it, handed on while it is written.
//!
//! Called by the door. `pg_dump` belongs to a task of this room: it is killed when nobody reads any more, when it takes
//! too long (its transaction holds back vacuum) and when the agent ends. Few run at a time.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_runtime::Kind;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::mpsc;

use super::ask::AskError;
use super::{Options, ReadOnly};

/// Dumps at a time.
pub(super) const DUMPS: usize = 2;
/// How long one may take, with a slow reader.
const LIMIT: Duration = Duration::from_secs(600);
/// Bytes per piece, and pieces that may wait for the reader.
const PIECE_BYTES: usize = 32 * 1024;
const PIECES: usize = 4;
/// How much of its complaints is kept.
const SAID_BYTES: usize = 4 * 1024;
const PROGRAM: &str = "pg_dump";

/// A dump under way. It ends when this is dropped.
#[derive(Debug)]
pub struct SchemaDump {
    first: Option<Vec<u8>>,
    rest: mpsc::Receiver<Result<Vec<u8>, AskError>>,
}

impl SchemaDump {
    /// The next piece; none at its good end.
    ///
    /// # Errors
    /// It failed: what was read so far is not the whole.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, AskError> {
        match self.first.take() {
            Some(piece) => Ok(Some(piece)),
            None => self.rest.recv().await.transpose(),
        }
    }
}

impl ReadOnly {
    /// Begins a dump; returns when its first piece is there.
    ///
    /// # Errors
    /// There is no such database, too many dumps run, or `pg_dump` fails before it has written anything.
    pub async fn dump_schema(&self, database: &str) -> Result<SchemaDump, AskError> {
        // Asked first: what is wrong is told by a code here and only by text there.
        drop(self.reader(Some(database), "compute_ctl:database_schema").await?);
        let place = Arc::clone(&self.dumps).try_acquire_owned().map_err(|_| AskError::Busy(DUMPS))?;
        let child = self.start_dump(database)?;
        let (pieces, mut rest) = mpsc::channel(PIECES);
        let ended = self.postgres.tasks.token();
        self.postgres.tasks.spawn("schema_dump", Kind::Worker, async move {
            let reader_left = pieces.clone();
            tokio::select! {
                outcome = tokio::time::timeout(LIMIT, hand_on(child, &pieces)) => {
                    if let Err(error) = outcome.unwrap_or(Err(AskError::Timeout(LIMIT))) {
                        // A reader that left does not mind.
                        let _ = pieces.send(Err(error)).await;
                    }
                }
                () = reader_left.closed() => {}
                () = ended.cancelled() => {}
            }
            drop(place);
            Ok::<_, std::convert::Infallible>(())
        });
        let first = rest.recv().await.transpose()?;
        Ok(SchemaDump { first, rest })
    }

    fn start_dump(&self, database: &str) -> Result<Child, AskError> {
        let options = self.postgres.options();
        let program = options.programs.postgres.with_file_name(PROGRAM);
        let mut command = self.postgres.command(&program);
        command
            .args(["--schema-only", "--lock-wait-timeout=5s", "--dbname"])
            .arg(conninfo(options, database))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| AskError::Program { program: PROGRAM, said: format!("{}: {error}", program.display()) })
    }
}

/// A name may look like a connection string, so it is always given as part of one.
fn conninfo(options: &Options, database: &str) -> String {
    let pairs = [
        ("host", options.socket_dir.display().to_string()),
        ("port", options.port.to_string()),
        ("user", options.superuser.clone()),
        ("dbname", database.to_owned()),
        ("application_name", "compute_ctl:database_schema".to_owned()),
        ("connect_timeout", "5".to_owned()),
    ];
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    pairs.map(|(name, value)| format!("{name}='{}'", quoted(&value))).join(" ")
}

async fn hand_on(mut child: Child, pieces: &mpsc::Sender<Result<Vec<u8>, AskError>>) -> Result<(), AskError> {
    let failed = |said: String| AskError::Program { program: PROGRAM, said };
    let (Some(out), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else { return Ok(()) };
    let (outcome, said) = tokio::join!(write_on(out, pieces), last_words(complaints));
    outcome.map_err(|error| failed(error.to_string()))?;
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(said.unwrap_or_else(|| status.to_string()))) }
}

async fn write_on(
    mut out: impl AsyncRead + Unpin,
    pieces: &mpsc::Sender<Result<Vec<u8>, AskError>>,
) -> std::io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        if out.read_buf(&mut piece).await? == 0 || pieces.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
}

/// The first line that is an error, of the first few kilobytes; all is read, so that the program is never held up.
async fn last_words(mut complaints: impl AsyncRead + Unpin) -> Option<String> {
    let (mut said, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = complaints.read(&mut piece).await {
        if said.len() < SAID_BYTES {
            said.extend_from_slice(&piece[..n]);
        }
    }
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| line.contains("error:")).or_else(|| said.lines().next())?;
    Some(line.trim_start_matches("pg_dump: ").to_owned())
}
