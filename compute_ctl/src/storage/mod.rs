//! Where the data directory comes from: made by `initdb`, or copied from a primary (`replica`), and then kept across restarts
//! and never deleted; or, where the spec names storage at page servers (`pageserver`), a base backup that is fetched anew at
//! every start.
//!
//! Called by `app` (check at start) and `lifecycle` (make it). A directory is made under another name and renamed into
//! place when it is whole (`place`), so a crash in the middle leaves nothing that looks like data. Every directory made
//! here has the marker (`marker`); one with data and without the marker belongs to somebody else.

mod initdb;
mod marker;
mod pageserver;
mod place;
mod replica;

use std::path::{Path, PathBuf};

use pgfleet_api::ComputeId;
use pgfleet_api::spec::{ComputeMode, ComputeSpec};

use marker::read_marker;
pub use marker::{BuiltFrom, Found, MARKER_FILE, Marker, check};
pub use pageserver::{
    BackupError, FinishError, PageError, PageStorage, Role, Source, SourceError, StorageMetrics, SyncError, TRIES,
    Timings, UnpackError, WireError, keep_lease, replaceable, settings,
};
use place::Workplace;
pub use replica::{Primary, follow, forget, is_standby, keep_password};

use crate::postgres::{ConfError, Postgres};

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
    /// The spec names no primary to copy.
    #[error("{}: {}", .0.path, .0.msg)]
    Primary(Unfit),
    /// The password of the primary cannot be written down.
    #[error("cannot keep the password of the primary")]
    Password(#[source] ConfError),
    /// The primary could not be copied.
    #[error("{program} failed: {said}")]
    Backup {
        /// Which program.
        program: &'static str,
        /// Its own words.
        said: String,
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

/// A spec that does not go with the data directory, or says too little to make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Path of the field.
    pub path: &'static str,
    /// Why, in one line; never a secret.
    pub msg: String,
}

/// Whether a data directory of its own can be what the spec says. `promoting`: one that follows a primary is to become one.
///
/// # Errors
/// The field at fault.
pub fn fits(data_dir: &Path, spec: &ComputeSpec, promoting: bool) -> Result<(), Unfit> {
    let unfit = |msg: &str| Err(Unfit { path: "mode", msg: msg.to_owned() });
    let made = data_dir.join("PG_VERSION").exists();
    match &spec.mode {
        ComputeMode::Static(_) => unfit("Static needs storage of the page-server kind"),
        ComputeMode::Primary if made && is_standby(data_dir) && !promoting => {
            unfit("the data directory follows a primary: POST /promote makes it one")
        }
        ComputeMode::Primary => Ok(()),
        ComputeMode::Replica if promoting => unfit("a promoted compute is a Primary"),
        ComputeMode::Replica if made && !is_standby(data_dir) => {
            unfit("the data directory is a primary's: a replica is made in an empty one")
        }
        ComputeMode::Replica => Primary::of(spec).map(drop),
    }
}

/// Makes the data directory unless it is there: a copy of the spec's primary for a replica, else one of its own.
///
/// # Errors
/// The system, `initdb` or the primary refuses, or the directory is not this compute's.
pub async fn ensure(
    postgres: &Postgres,
    compute_id: &ComputeId,
    spec: Option<&ComputeSpec>,
) -> Result<(), StorageError> {
    let data_dir = &postgres.options().data_dir;
    if check(data_dir, compute_id, false)? == Found::Ours {
        return match read_marker(data_dir)?.disposable {
            true => Err(StorageError::Disposable { path: data_dir.clone() }),
            false => Ok(()),
        };
    }
    let primary = match spec.filter(|spec| spec.mode == ComputeMode::Replica) {
        Some(spec) => Some(Primary::of(spec).map_err(StorageError::Primary)?),
        None => None,
    };
    let begun = std::time::Instant::now();
    let workplace = Workplace::make(postgres, compute_id)?;
    match &primary {
        Some(primary) => replica::make(postgres, &workplace.fresh, primary, compute_id).await?,
        None => initdb::make(postgres, &workplace.fresh).await?,
    }
    workplace.put_in_place(data_dir, compute_id).await?;
    let from = if primary.is_some() { "copied from its primary" } else { "made" };
    tracing::info!(path = %data_dir.display(), duration_ms = begun.elapsed().as_millis(), "the data directory is {from}");
    Ok(())
}
