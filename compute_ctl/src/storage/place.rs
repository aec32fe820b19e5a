//! Making a directory under another name and renaming it into place when it is whole, so that a crash in the middle
//! leaves nothing that looks like data.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pgfleet_api::ComputeId;

use super::StorageError;
use super::marker::{Found, Marker, check, write_marker};
use crate::postgres::{Postgres, RunAs};

/// A directory in the making, beside the place where it will lie.
pub(super) struct Workplace {
    /// With our marker; removed when `fresh` has left it.
    outer: PathBuf,
    /// Owned by PostgreSQL's user, empty, 0700.
    pub(super) fresh: PathBuf,
}

impl Workplace {
    /// Makes it. What an earlier agent left unfinished is removed; what has no marker is somebody else's, whatever its name.
    pub(super) fn make(postgres: &Postgres, compute_id: &ComputeId) -> Result<Self, StorageError> {
        let outer = beside(&postgres.options().data_dir);
        let io = |source| StorageError::Io { path: outer.clone(), source };
        match check(&outer, compute_id, false)? {
            Found::Ours => {
                std::fs::remove_dir_all(&outer).map_err(io)?;
                tracing::info!(path = %outer.display(), "an unfinished data directory of ours was removed");
            }
            Found::Nothing => {}
        }
        // A name of its own: a program that an earlier agent began and that still writes must not meet ours.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let fresh = outer.join(format!("data-{}-{now}", std::process::id()));
        let make = |directory: &Path| make_closed(directory, postgres.options().run_as);
        make(&outer)
            .and_then(|()| write_marker(&outer, &Marker::of(compute_id)))
            .and_then(|()| make(&fresh))
            .map_err(io)?;
        Ok(Self { outer, fresh })
    }

    /// Another directory in it, as closed as `fresh`, for what is of use only while it is made.
    pub(super) fn another(&self, name: &str, postgres: &Postgres) -> std::io::Result<PathBuf> {
        let directory = self.outer.join(name);
        make_closed(&directory, postgres.options().run_as)?;
        Ok(directory)
    }

    /// Makes `fresh` empty again, after a try that failed.
    pub(super) fn empty(&self, postgres: &Postgres) -> Result<(), StorageError> {
        let io = |source| StorageError::Io { path: self.fresh.clone(), source };
        std::fs::remove_dir_all(&self.fresh).map_err(io)?;
        make_closed(&self.fresh, postgres.options().run_as).map_err(io)
    }

    /// Puts what was made into the place of a disposable directory, which is removed. Blocks. A crash in between leaves
    /// none at the place, and the next start makes one.
    pub(super) fn replace(self, data_dir: &Path, marker: &Marker) -> Result<(), StorageError> {
        let io = |source| StorageError::Io { path: data_dir.to_owned(), source };
        write_marker(&self.fresh, marker).map_err(io)?;
        match std::fs::rename(data_dir, self.outer.join("old")) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        rename(&self.fresh, data_dir).map_err(io)?;
        std::fs::remove_dir_all(&self.outer).map_err(io)
    }

    /// Marks what was made, syncs all of it and renames it into place.
    pub(super) async fn put_in_place(self, data_dir: &Path, compute_id: &ComputeId) -> Result<(), StorageError> {
        let io = |source| StorageError::Io { path: data_dir.to_owned(), source };
        write_marker(&self.fresh, &Marker::of(compute_id)).map_err(io)?;
        let (from, to) = (self.fresh, data_dir.to_owned());
        let placed = tokio::task::spawn_blocking(move || rename(&from, &to)).await;
        placed.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(io)?;
        std::fs::remove_dir_all(&self.outer).map_err(io)
    }
}

fn make_closed(directory: &Path, owner: Option<RunAs>) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    owner.map_or(Ok(()), |user| user.own(directory))
}

/// Beside its place, where it is made before it is whole.
fn beside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".pgfleet-new");
    PathBuf::from(name)
}

/// Syncs all of it, then renames onto nothing or onto an empty directory; anything else there makes it fail.
fn rename(fresh: &Path, data_dir: &Path) -> std::io::Result<()> {
    rustix::fs::syncfs(File::open(fresh)?)?;
    std::fs::rename(fresh, data_dir)?;
    match data_dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
