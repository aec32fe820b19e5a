//! Whose a data directory is: the marker inside it. What has data and no marker of this compute is somebody else's.
//!
//! Called by `app` before anything runs, and by this room before anything is made or removed.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgfleet_api::{ClusterId, ComputeId};
use serde::{Deserialize, Serialize};

use super::StorageError;

/// Name of the marker inside a data directory.
pub const MARKER_FILE: &str = "pgfleet.json";

/// Whose a data directory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The fleet, once it is known.
    pub cluster_id: Option<ClusterId>,
    /// The compute.
    pub compute_id: ComputeId,
    /// Whether it may be thrown away and built again. Never true for a local directory.
    pub disposable: bool,
    /// The storage that it was built from, where it is disposable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_from: Option<BuiltFrom>,
}

/// What a disposable directory shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltFrom {
    /// The tenant at the page server.
    pub tenant_id: String,
    /// Its timeline.
    pub timeline_id: String,
    /// `primary`, `replica`, `static`.
    pub mode: String,
    /// The moment, where it is static.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
}

impl Marker {
    /// Of a local directory.
    #[must_use]
    pub fn of(compute_id: &ComputeId) -> Self {
        Self { cluster_id: None, compute_id: compute_id.clone(), disposable: false, built_from: None }
    }
}

/// What is at the place of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or an empty directory.
    Nothing,
    /// A directory of this compute.
    Ours,
}

/// Looks whose the data directory is, and takes it over where `adopt` says so.
///
/// # Errors
/// It has data and is not this compute's.
pub fn check(data_dir: &Path, compute_id: &ComputeId, adopt: bool) -> Result<Found, StorageError> {
    let io = |source| StorageError::Io { path: data_dir.to_owned(), source };
    let mut entries = match std::fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(source) => return Err(io(source)),
    };
    if entries.next().is_none() {
        return Ok(Found::Nothing);
    }
    match judge(data_dir, compute_id) {
        Ok(()) => Ok(Found::Ours),
        Err(error) if !adopt => Err(error),
        Err(_) if data_dir.join("PG_VERSION").is_file() => {
            write_marker(data_dir, &Marker::of(compute_id)).map_err(io)?;
            tracing::warn!(path = %data_dir.display(), "the data directory was taken over (--adopt)");
            Ok(Found::Ours)
        }
        Err(_) => Err(StorageError::NotOurs { path: data_dir.to_owned() }),
    }
}

fn judge(data_dir: &Path, compute_id: &ComputeId) -> Result<(), StorageError> {
    let marker = read_marker(data_dir)?;
    if marker.compute_id == *compute_id {
        Ok(())
    } else {
        Err(StorageError::Other { path: data_dir.to_owned(), owner: marker.compute_id })
    }
}

/// The marker of a directory that has one.
pub(super) fn read_marker(data_dir: &Path) -> Result<Marker, StorageError> {
    let path = data_dir.join(MARKER_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StorageError::NotOurs { path: data_dir.to_owned() });
        }
        Err(source) => return Err(StorageError::Marker { path, source }),
    };
    serde_json::from_slice(&bytes).map_err(|error| StorageError::Marker { path, source: error.into() })
}

pub(super) fn write_marker(data_dir: &Path, marker: &Marker) -> std::io::Result<()> {
    let mut file = File::create(data_dir.join(MARKER_FILE))?;
    file.write_all(&serde_json::to_vec_pretty(marker)?)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pgfleet-storage-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn only_marked_or_empty_directories_are_touched() {
        let ours: ComputeId = "ours".parse().unwrap();
        let other: ComputeId = "other".parse().unwrap();
        let dir = scratch("check");
        assert_eq!(check(&dir.join("absent"), &ours, false).unwrap(), Found::Nothing);
        assert_eq!(check(&dir, &ours, false).unwrap(), Found::Nothing);
        std::fs::write(dir.join("precious"), "x").unwrap();
        assert!(matches!(check(&dir, &ours, false), Err(StorageError::NotOurs { .. })));
        // Even with --adopt it must be a data directory of PostgreSQL.
        assert!(matches!(check(&dir, &ours, true), Err(StorageError::NotOurs { .. })));
        std::fs::write(dir.join("PG_VERSION"), "15").unwrap();
        assert_eq!(check(&dir, &ours, true).unwrap(), Found::Ours);
        assert_eq!(check(&dir, &ours, false).unwrap(), Found::Ours);
        assert!(matches!(check(&dir, &other, false), Err(StorageError::Other { .. })));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
