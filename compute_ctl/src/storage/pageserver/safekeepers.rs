//! Where the WAL ends: asked of the safekeepers, and settled by PostgreSQL where they do not agree.
//!
//! Only for a primary, since settling ends the right to write of any other.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::metrics::{StorageMetrics, Sync, SyncOutcome, Timings, ms};
use super::quorum::{Answer, Verdict, judge};
use super::source::Source;
use super::wire::{Login, Row, Session, WireError};
use crate::postgres::Postgres;
use pgfleet_api::Lsn;

/// How long one safekeeper may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(100);
/// Pauses before each try to settle.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(1100),
    Duration::from_millis(1200),
    Duration::from_millis(1300),
    Duration::from_millis(1500),
];
/// How long one try to settle may take: it waits for a majority of safekeepers.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// It is not known where the WAL ends.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The program cannot be run.
    #[error("cannot run postgres --sync-safekeepers")]
    Run(#[source] std::io::Error),
    /// It failed.
    #[error("postgres --sync-safekeepers failed ({said}); page-server storage needs a PostgreSQL that has this mode")]
    Failed {
        /// Its last line, or how it ended.
        said: String,
    },
    /// It takes too long.
    #[error("postgres --sync-safekeepers found no majority of safekeepers within {} s", .0.as_secs())]
    Slow(Duration),
    /// It answered with something else.
    #[error("postgres --sync-safekeepers printed no LSN")]
    NoLsn,
}

/// Finds the end of the WAL. `directory` has the configuration for PostgreSQL, whose `--sync-safekeepers` reads it there.
pub(super) async fn end_of_wal(
    postgres: &Postgres,
    source: &Arc<Source>,
    directory: &Path,
    metrics: &StorageMetrics,
    timings: &mut Timings,
) -> Result<Lsn, SyncError> {
    let begun = Instant::now();
    let verdict = judge(&ask_all(source).await);
    timings.sync_sk_check_ms = ms(begun.elapsed());
    if let Verdict::Agreed(lsn) = verdict {
        metrics.safekeeper_syncs_total.inc(Sync { outcome: SyncOutcome::Agreed });
        tracing::info!(%lsn, "the safekeepers agree that the WAL ends at {lsn}");
        return Ok(lsn);
    }
    tracing::info!("the safekeepers do not agree where the WAL ends: settling it");
    let begun = Instant::now();
    let mut last = SyncError::NoLsn;
    for pause in PAUSES {
        tokio::time::sleep(pause).await;
        match settle(postgres, source, directory).await {
            Ok(lsn) => {
                timings.sync_safekeepers_ms = ms(begun.elapsed());
                metrics.safekeeper_syncs_total.inc(Sync { outcome: SyncOutcome::Settled });
                tracing::info!(%lsn, duration_ms = timings.sync_safekeepers_ms, "the WAL ends at {lsn}");
                return Ok(lsn);
            }
            Err(error) => {
                tracing::warn!("{}", pgfleet_runtime::exit::chain(&error));
                last = error;
            }
        }
    }
    metrics.safekeeper_syncs_total.inc(Sync { outcome: SyncOutcome::Failed });
    Err(last)
}

/// All at once; what is not there in time is silent.
async fn ask_all(source: &Arc<Source>) -> Vec<Answer> {
    let mut asked = JoinSet::new();
    for i in 0..source.safekeepers.len() {
        let source = Arc::clone(source);
        asked.spawn(async move {
            let host = source.safekeepers.get(i).map_or("", String::as_str);
            match tokio::time::timeout(ANSWER_LIMIT, ask(&source, host)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::info!("safekeeper {host} does not answer: {}", pgfleet_runtime::exit::chain(&error));
                    Answer::Silent
                }
                Err(_) => {
                    tracing::info!("safekeeper {host} does not answer within {} ms", ANSWER_LIMIT.as_millis());
                    Answer::Silent
                }
            }
        });
    }
    asked.join_all().await
}

async fn ask(source: &Source, host: &str) -> Result<Answer, WireError> {
    let options = format!("-c timeline_id={} tenant_id={}", source.timeline_id, source.tenant_id);
    let login = Login { token: source.token.as_ref(), options };
    let mut session = Session::open(&format!("postgresql://no_user@{host}"), &login).await?;
    let rows = session.rows("TIMELINE_STATUS").await?;
    let Some(row) = rows.first() else { return Ok(Answer::Unknown) };
    let lsn = |name| field(row, name).ok_or(WireError::Unexpected("flush_lsn and commit_lsn"));
    Ok(Answer::Status { flush: lsn("flush_lsn")?, commit: lsn("commit_lsn")? })
}

fn field(row: &Row, name: &str) -> Option<Lsn> {
    row.iter().find(|(column, _)| column == name)?.1.as_deref()?.parse().ok()
}

/// The election of a writer, and with it the end of what was written before.
async fn settle(postgres: &Postgres, source: &Source, directory: &Path) -> Result<Lsn, SyncError> {
    let mut command = postgres.command(&postgres.options().programs.postgres);
    command.arg("--sync-safekeepers").env("PGDATA", directory).stdin(Stdio::null());
    if let Some(token) = &source.token {
        command.env("NEON_AUTH_TOKEN", &token.0);
    }
    let run = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output = match tokio::time::timeout(SETTLE_LIMIT, run).await {
        Ok(output) => output.map_err(SyncError::Run)?,
        Err(_) => return Err(SyncError::Slow(SETTLE_LIMIT)),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    for line in said.lines() {
        tracing::debug!("postgres --sync-safekeepers: {line}");
    }
    if !output.status.success() {
        let line = said.lines().rev().find(|line| !line.trim().is_empty());
        return Err(SyncError::Failed {
            said: line.map_or_else(|| output.status.to_string(), |l| l.trim().to_owned()),
        });
    }
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| SyncError::NoLsn)
}
