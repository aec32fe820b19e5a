//! Where the data directory comes from: made by `initdb`, kept across restarts and never deleted; or, where the spec names
//! storage at page servers (`pageserver`), a base backup that is fetched anew at every start.
//!
//! Called by `app` (check at start) and `lifecycle` (make it). A directory is made under another name and renamed into
//! place when it is whole (`place`), so a crash in the middle leaves nothing that looks like data. Every directory made
//! here has the marker (`marker`); one with data and without the marker belongs to somebody else.

mod initdb;
mod marker;
mod pageserver;
mod place;

use std::path::PathBuf;

use pgfleet_api::ComputeId;

use marker::read_marker;
pub use marker::{BuiltFrom, Found, MARKER_FILE, Marker, check};
pub use pageserver::{
    BackupError, FinishError, PageError, PageStorage, Role, Source, SourceError, StorageMetrics, SyncError, TRIES,
    Timings, UnpackError, WireError, keep_lease, replaceable, settings,
};
use place::Workplace;

use crate::postgres::Postgres;

/// The data directory cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It has data and no marker.
    #[error("{path} holds data that compute_ctl did not make; give another -D, or --adopt to take it over")]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// Its marker names another compute.
    #[error("{path} belongs to compute {owner}; give another -D, or --adopt to take it over")]
    Other {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: ComputeId,
    },
    /// Its marker cannot be read.
    #[error("the marker {path} cannot be read; give another -D, or --adopt to take the directory over")]
    Marker {
        /// The marker.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system refuses.
    #[error("cannot make the data directory {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {said}")]
    Initdb {
        /// Its own words.
        said: String,
    },
    /// It has data of its own, and the spec wants it built from page servers.
    #[error("{path} holds data of its own, which a spec with page-server storage would replace; give another -D")]
    Local {
        /// The directory.
        path: PathBuf,
    },
    /// It was built from page servers, and the spec wants data of its own.
    #[error("{path} was built from a page server, and the spec names none; give another -D")]
    Disposable {
        /// The directory.
        path: PathBuf,
    },
    /// A thread died.
    #[error("making the data directory ended in the middle")]
    Thread {
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Makes the data directory unless it is there.
///
/// # Errors
/// The system or `initdb` refuses, or the directory is not this compute's.
pub async fn ensure(postgres: &Postgres, compute_id: &ComputeId) -> Result<(), StorageError> {
    let data_dir = &postgres.options().data_dir;
    if check(data_dir, compute_id, false)? == Found::Ours {
        return match read_marker(data_dir)?.disposable {
            true => Err(StorageError::Disposable { path: data_dir.clone() }),
            false => Ok(()),
        };
    }
    let begun = std::time::Instant::now();
    let workplace = Workplace::make(postgres, compute_id)?;
    initdb::make(postgres, &workplace.fresh).await?;
    workplace.put_in_place(data_dir, compute_id).await?;
    tracing::info!(path = %data_dir.display(), duration_ms = begun.elapsed().as_millis(), "the data directory is made");
    Ok(())
}
