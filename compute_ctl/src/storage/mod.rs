//! Where the data directory comes from. In this version: made by `initdb`, kept across restarts, never deleted.
//!
//! Called by `app` (check at start) and `lifecycle` (make it). A directory is made under another name and renamed into
//! place when it is whole, so a crash in the middle leaves nothing that looks like data. Every directory made here has the
//! marker; one with data and without the marker belongs to somebody else.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgfleet_api::{ClusterId, ComputeId};
use serde::{Deserialize, Serialize};

use crate::postgres::Postgres;

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
}

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
            write_marker(data_dir, compute_id).map_err(io)?;
            tracing::warn!(path = %data_dir.display(), "the data directory was taken over (--adopt)");
            Ok(Found::Ours)
        }
        Err(_) => Err(StorageError::NotOurs { path: data_dir.to_owned() }),
    }
}

fn judge(data_dir: &Path, compute_id: &ComputeId) -> Result<(), StorageError> {
    let path = data_dir.join(MARKER_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StorageError::NotOurs { path: data_dir.to_owned() });
        }
        Err(source) => return Err(StorageError::Marker { path, source }),
    };
    let marker: Marker =
        serde_json::from_slice(&bytes).map_err(|error| StorageError::Marker { path, source: error.into() })?;
    if marker.compute_id == *compute_id {
        Ok(())
    } else {
        Err(StorageError::Other { path: data_dir.to_owned(), owner: marker.compute_id })
    }
}

fn write_marker(data_dir: &Path, compute_id: &ComputeId) -> std::io::Result<()> {
    let marker = Marker { cluster_id: None, compute_id: compute_id.clone(), disposable: false };
    let mut file = File::create(data_dir.join(MARKER_FILE))?;
    file.write_all(&serde_json::to_vec_pretty(&marker)?)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

/// Makes the data directory unless it is there.
///
/// # Errors
/// The system or `initdb` refuses, or the directory is not this compute's.
pub async fn ensure(postgres: &Postgres, compute_id: &ComputeId) -> Result<(), StorageError> {
    let data_dir = &postgres.options().data_dir;
    if check(data_dir, compute_id, false)? == Found::Ours {
        return Ok(());
    }
    let begun = std::time::Instant::now();
    let workplace = beside(data_dir);
    let io = |source| StorageError::Io { path: data_dir.clone(), source };
    let fresh = prepare(postgres, &workplace, compute_id)?;
    initdb(postgres, &fresh).await?;
    std::fs::write(fresh.join("pg_hba.conf"), host_based_authentication(&postgres.options().superuser)).map_err(io)?;
    write_marker(&fresh, compute_id).map_err(io)?;
    let (from, to) = (fresh.clone(), data_dir.clone());
    let placed = tokio::task::spawn_blocking(move || put_in_place(&from, &to)).await;
    placed.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(io)?;
    std::fs::remove_dir_all(&workplace).map_err(io)?;
    tracing::info!(path = %data_dir.display(), duration_ms = begun.elapsed().as_millis(), "the data directory is made");
    Ok(())
}

/// Beside its place, where it is made before it is whole.
fn beside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".pgfleet-new");
    PathBuf::from(name)
}

/// A workplace with our marker, and in it the directory for `initdb`. What an earlier agent left unfinished is removed; what
/// has no marker is somebody else's, whatever its name.
fn prepare(postgres: &Postgres, workplace: &Path, compute_id: &ComputeId) -> Result<PathBuf, StorageError> {
    let io = |source| StorageError::Io { path: workplace.to_owned(), source };
    match check(workplace, compute_id, false)? {
        Found::Ours => {
            std::fs::remove_dir_all(workplace).map_err(io)?;
            tracing::info!(path = %workplace.display(), "an unfinished data directory of ours was removed");
        }
        Found::Nothing => {}
    }
    let fresh = workplace.join("data");
    let make = |directory: &Path| {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        postgres.options().run_as.map_or(Ok(()), |user| user.own(directory))
    };
    make(workplace).and_then(|()| write_marker(workplace, compute_id)).and_then(|()| make(&fresh)).map_err(io)?;
    Ok(fresh)
}

/// C.UTF-8 sorts by code point and knows letters beyond ASCII; where the system has no such locale, C does.
async fn initdb(postgres: &Postgres, fresh: &Path) -> Result<(), StorageError> {
    let first = run_initdb(postgres, fresh, "C.UTF-8").await?;
    let Err(said) = first else { return Ok(()) };
    if !said.contains("locale") {
        return Err(StorageError::Initdb { said });
    }
    run_initdb(postgres, fresh, "C").await?.map_err(|said| StorageError::Initdb { said })
}

async fn run_initdb(postgres: &Postgres, fresh: &Path, locale: &str) -> Result<Result<(), String>, StorageError> {
    let options = postgres.options();
    let mut command = postgres.command(&options.programs.initdb);
    command
        .arg("-D")
        .arg(fresh)
        .args(["-U", &options.superuser, "--encoding=UTF8", "--data-checksums", "--no-instructions"])
        // One sync of everything follows: a thousand small ones take seconds.
        .arg("--no-sync")
        .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
        .arg(format!("--locale={locale}"))
        .stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| StorageError::Io { path: fresh.to_owned(), source })?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.contains("error:")).or_else(|| said.lines().last()).unwrap_or_default();
    Ok(Err(line.trim().to_owned()))
}

/// Syncs all of it, then renames onto nothing or onto an empty directory; anything else there makes it fail.
fn put_in_place(fresh: &Path, data_dir: &Path) -> std::io::Result<()> {
    rustix::fs::syncfs(File::open(fresh)?)?;
    std::fs::rename(fresh, data_dir)?;
    match data_dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The superuser comes in over the unix socket, whose directory is closed to others; everybody else shows a password.
///
/// The method is called md5 and means: SCRAM for a role with a SCRAM verifier, MD5 for one that has only an MD5 hash.
fn host_based_authentication(superuser: &str) -> String {
    let superuser = superuser.replace('"', "\"\"");
    format!(
        "# Written by compute_ctl when it made this data directory; edits are kept.\n\
         local  all          \"{superuser}\"  trust\n\
         local  all          all  md5\n\
         host   all          all  all  md5\n\
         local  replication  \"{superuser}\"  trust\n\
         host   replication  all  all  md5\n"
    )
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn names_in_hba_are_quoted() {
        assert!(host_based_authentication("cloud \"x\" admin").contains("\"cloud \"\"x\"\" admin\"  trust"));
    }
}
