//! Fetches a base backup from the page server of shard 0 and unpacks it while it arrives.
//!
//! ```text
//! page server ──► Session::chunk ──► channel of a few pieces ──► thread: gunzip, untar, write
//! ```
//! It is whole only when both ends say so: the server by its last word, the archive by its checksum and its content.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pgfleet_api::spec::Secret;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::metrics::{Timings, ms};
use super::source::{Role, Source};
use super::unpack::{Pipe, UnpackError, unpack};
use super::wire::{Login, Session, WireError};
use crate::postgres::RunAs;
use pgfleet_api::Lsn;

/// Pieces between the connection and the disk.
const PIECES: usize = 16;

/// There is no base backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The page server.
    #[error("the page server does not give a base backup")]
    Server(#[from] WireError),
    /// What it gave.
    #[error("the base backup cannot be used")]
    Unpack(#[from] UnpackError),
    /// The thread died.
    #[error("the base backup could not be unpacked")]
    Thread(#[source] tokio::task::JoinError),
}

/// Where it is unpacked, and for whom. Whoever holds `turn` may write there; the thread holds it too, because it may
/// outlive a future that was dropped.
pub(super) struct Place<'a> {
    pub(super) directory: &'a Path,
    pub(super) owner: Option<RunAs>,
    pub(super) turn: &'a Arc<OwnedMutexGuard<()>>,
}

/// Tries once. `at`: where it has to end; none for the newest.
pub(super) async fn fetch(
    source: &Source,
    at: Option<Lsn>,
    place: Place<'_>,
    timings: &mut Timings,
) -> Result<(), BackupError> {
    let login =
        Login { token: source.token.as_ref(), options: format!("-c neon.compute_mode={}", source.role.as_str()) };
    let begun = Instant::now();
    let mut session = open_first(source.shards.first().map_or(&[], Vec::as_slice), &login).await?;
    timings.pageserver_connect_micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let begun = Instant::now();
    session.copy_out(&command(source, at)).await?;
    let (pieces, arriving) = mpsc::channel(PIECES);
    let (directory, owner, turn) = (place.directory.to_owned(), place.owner, Arc::clone(place.turn));
    let unpacking = tokio::task::spawn_blocking(move || {
        let unpacked = unpack(Pipe::new(arriving), &directory, owner);
        drop(turn);
        unpacked
    });
    let mut bytes = 0;
    let received = loop {
        match session.chunk().await {
            Ok(Some(piece)) => {
                bytes += u64::try_from(piece.len()).unwrap_or_default();
                if pieces.send(piece).await.is_err() {
                    // The thread has given up and says why.
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(pieces);
    let unpacked = unpacking.await.map_err(BackupError::Thread)?;
    received?;
    unpacked?;
    timings.basebackup_ms = ms(begun.elapsed());
    timings.basebackup_bytes = bytes;
    Ok(())
}

/// A page server of the shard, the preferred one first; one that is away is passed over.
async fn open_first(urls: &[Secret], login: &Login<'_>) -> Result<Session, WireError> {
    let mut last = WireError::NoHost;
    for url in urls {
        match Session::open(&url.0, login).await {
            Ok(session) => return Ok(session),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn command(source: &Source, at: Option<Lsn>) -> String {
    let at = at.filter(|lsn| *lsn != Lsn(0)).map(|lsn| format!(" {lsn}")).unwrap_or_default();
    let replica = if source.role == Role::Primary { "" } else { " --replica" };
    format!("basebackup {} {}{at} --gzip{replica}", source.tenant_shard(0), source.timeline_id)
}
