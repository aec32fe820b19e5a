//! Where a local cluster keeps what, and whose a directory is.
//!
//! ```text
//! DIR/.pgfleet-local        the marker: this directory is ours, and everything listed here may be removed
//!     lock                  held by a running `up`, `down` or `demo`
//!     state.json            processes, ports; written by rename
//!     keys/                 private keys, key sets, operator.token, agent.token, database-url (0700)
//!     database/data         the controllers' PostgreSQL
//!     computes/ID/pgdata    a compute's PostgreSQL; computes/ID/state is its agent's ledger
//!     run/NAME.json         port files
//!     logs/NAME.log
//! ```

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::exit::CliError;

const MARKER: &str = ".pgfleet-local";
const MARKER_TEXT: &str = "made by pgfleet local; pgfleet local down removes everything in it\n";
/// What [`Layout::remove`] removes, and nothing else; the logs last.
const OURS: [&str; 7] = ["state.json", "keys", "database", "computes", "run", "lock", "logs"];

/// Paths of one local cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    pub root: PathBuf,
}

impl Layout {
    /// The directory given, or the default of this user.
    pub fn new(dir: Option<PathBuf>) -> Result<Self, CliError> {
        let root = match dir.or_else(|| std::env::var_os("PGFLEET_LOCAL_DIR").map(PathBuf::from)) {
            Some(dir) => std::path::absolute(&dir).map_err(|error| failed("resolve", &dir, &error))?,
            // root's home is closed to the postgres user, who has to reach the data directories.
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/tmp/pgfleet-local"),
            None => std::env::home_dir()
                .map(|home| home.join(".pgfleet/local"))
                .ok_or_else(|| CliError::Usage("no home directory; give --dir".to_owned()))?,
        };
        Ok(Self { root })
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub fn operator_token(&self) -> PathBuf {
        self.keys().join("operator.token")
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("database")
    }

    pub fn database_data(&self) -> PathBuf {
        self.database().join("data")
    }

    pub fn compute(&self, id: &str) -> PathBuf {
        self.root.join("computes").join(id)
    }

    pub fn compute_data(&self, id: &str) -> PathBuf {
        self.compute(id).join("pgdata")
    }

    pub fn port_file(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.json"))
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    fn marker(&self) -> PathBuf {
        self.root.join(MARKER)
    }

    /// Whether there is a directory of ours; one of somebody else's is an error.
    pub fn exists(&self) -> Result<bool, CliError> {
        let mut entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("look into", &self.root, &error)),
        };
        if self.marker().is_file() {
            return Ok(true);
        }
        match entries.next() {
            None => Ok(false),
            Some(_) => Err(CliError::NotOurs(format!(
                "{} is not empty and was not made by pgfleet local; give another --dir",
                self.root.display()
            ))),
        }
    }

    /// Makes the directory and marks it. An earlier cluster in it is an error.
    pub fn create(&self) -> Result<Lock, CliError> {
        let place = self.root.display();
        if self.exists()? {
            let lock = self.lock()?;
            if self.root.join("state.json").exists() || self.root.join("database").exists() {
                return Err(CliError::Failed(format!(
                    "there is a local cluster in {place} already; pgfleet local status shows it, pgfleet local down removes it"
                )));
            }
            drop(lock);
        }
        self.make_dir(&self.root, 0o755)?;
        // Every directory above must let the postgres user through; a mode is worth nothing below a closed one.
        fs::write(self.marker(), MARKER_TEXT).map_err(|error| failed("write", &self.marker(), &error))?;
        let lock = self.lock()?;
        for (name, mode) in [("keys", 0o700), ("database", 0o755), ("computes", 0o755), ("run", 0o755), ("logs", 0o755)]
        {
            self.make_dir(&self.root.join(name), mode)?;
        }
        Ok(lock)
    }

    pub fn make_dir(&self, dir: &Path, mode: u32) -> Result<(), CliError> {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
        made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(mode)))
            .map_err(|error| failed("make", dir, &error))
    }

    /// Takes the directory for this process. The lock ends with the value.
    pub fn lock(&self) -> Result<Lock, CliError> {
        let path = self.root.join("lock");
        let file = File::create(&path).map_err(|error| failed("open", &path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(CliError::Failed(format!(
                "another pgfleet local is at work in {}; wait for it",
                self.root.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path, &error)),
        }
    }

    /// Removes what a cluster made but its logs, for somebody who has to find out why it failed.
    pub fn remove_all_but_logs(&self) -> Result<(), CliError> {
        self.remove_entries(&OURS[..OURS.len() - 1])
    }

    /// Removes what a cluster made. The directory itself goes if nothing else is in it.
    pub fn remove(&self) -> Result<(), CliError> {
        if !self.exists()? {
            return Ok(());
        }
        self.remove_entries(&OURS)?;
        fs::remove_file(self.marker()).map_err(|error| failed("remove", &self.marker(), &error))?;
        match fs::remove_dir(&self.root) {
            Err(error) if !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {
                Err(failed("remove", &self.root, &error))
            }
            _ => Ok(()),
        }
    }

    fn remove_entries(&self, names: &[&str]) -> Result<(), CliError> {
        if !self.exists()? {
            return Ok(());
        }
        for name in names {
            let path = self.root.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &path, &error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The right to change a local cluster.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// One line about a file that does not do what is wanted.
pub fn failed(verb: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("cannot {verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pgfleet-layout-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_kept() {
        let scratch = Scratch::new("foreign");
        fs::create_dir(&scratch.0).unwrap();
        fs::write(scratch.0.join("keys"), "precious").unwrap();
        let layout = Layout::new(Some(scratch.0.clone())).unwrap();
        assert!(matches!(layout.create(), Err(CliError::NotOurs(_))));
        assert!(matches!(layout.remove(), Err(CliError::NotOurs(_))));
        assert_eq!(fs::read_to_string(scratch.0.join("keys")).unwrap(), "precious");
    }

    #[test]
    fn removing_leaves_what_it_did_not_make() {
        let scratch = Scratch::new("remove");
        let layout = Layout::new(Some(scratch.0.clone())).unwrap();
        drop(layout.create().unwrap());
        assert!(layout.exists().unwrap());
        fs::write(scratch.0.join("notes"), "mine").unwrap();
        layout.remove().unwrap();
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
        fs::remove_file(scratch.0.join("notes")).unwrap();
        drop(layout.create().unwrap());
        layout.remove().unwrap();
        assert!(!scratch.0.exists());
    }

    #[test]
    fn one_at_a_time() {
        let scratch = Scratch::new("lock");
        let layout = Layout::new(Some(scratch.0.clone())).unwrap();
        let lock = layout.create().unwrap();
        assert!(matches!(layout.lock(), Err(CliError::Failed(_))));
        drop(lock);
        assert!(layout.lock().is_ok());
    }
}
