//! What a base backup lacks before PostgreSQL can start on it: configuration, who may come in, and the signal to follow.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::source::Role;
use crate::postgres::{CONF_FILE, Postgres};
use crate::storage::initdb::host_based_authentication;
use crate::storage::place::Workplace;

/// A base backup that PostgreSQL could not start on.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// It is of another major version.
    #[error("it is of PostgreSQL {backup} and the installed one is {installed}")]
    Version {
        /// `PG_VERSION` of the backup.
        backup: String,
        /// What the agent has.
        installed: String,
    },
    /// The system refuses.
    #[error("cannot write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A directory for the questions to the safekeepers: PostgreSQL wants a configuration for them, and no data.
pub(super) fn questions(postgres: &Postgres, workplace: &Workplace, conf: &str) -> Result<PathBuf, FinishError> {
    let directory = workplace
        .another("questions", postgres)
        .map_err(|source| FinishError::Io { path: workplace.fresh.clone(), source })?;
    write(postgres, &directory, "postgresql.conf", conf)?;
    Ok(directory)
}

/// Makes the backup a data directory of this compute.
pub(super) fn complete(postgres: &Postgres, fresh: &Path, role: Role, conf: &str) -> Result<(), FinishError> {
    let path = fresh.join("PG_VERSION");
    let backup = std::fs::read_to_string(&path).map_err(|source| FinishError::Io { path, source })?;
    let installed = &postgres.options().programs.version;
    let backup = backup.trim();
    let is_major = installed.strip_prefix(backup).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    if backup.is_empty() || !is_major {
        return Err(FinishError::Version { backup: backup.to_owned(), installed: installed.clone() });
    }
    // What the files of the backup say belongs to the server that it was taken from.
    let include = format!("# Written by compute_ctl at every start.\ninclude_if_exists = '{CONF_FILE}'\n");
    write(postgres, fresh, "postgresql.conf", &include)?;
    write(postgres, fresh, CONF_FILE, conf)?;
    write(postgres, fresh, "pg_hba.conf", &host_based_authentication(&postgres.options().superuser))?;
    match role {
        Role::Primary => Ok(()),
        Role::Replica | Role::Static(_) => write(postgres, fresh, "standby.signal", ""),
    }
}

fn write(postgres: &Postgres, directory: &Path, name: &str, text: &str) -> Result<(), FinishError> {
    let path = directory.join(name);
    let attempt = || -> std::io::Result<()> {
        let mut file = File::create(&path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        postgres.options().run_as.map_or(Ok(()), |user| user.own(&path))
    };
    attempt().map_err(|source| FinishError::Io { path: path.clone(), source })
}
