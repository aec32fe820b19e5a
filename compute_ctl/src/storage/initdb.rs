//! A data directory of its own, made by `initdb`.

use std::path::Path;
use std::process::Stdio;

use super::StorageError;
use crate::postgres::Postgres;

/// Fills `fresh` with an empty cluster and says who may come in.
pub(super) async fn make(postgres: &Postgres, fresh: &Path) -> Result<(), StorageError> {
    initdb(postgres, fresh).await?;
    let text = host_based_authentication(&postgres.options().superuser);
    std::fs::write(fresh.join("pg_hba.conf"), text)
        .map_err(|source| StorageError::Io { path: fresh.to_owned(), source })
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

/// The superuser comes in over the unix socket, whose directory is closed to others; everybody else shows a password.
///
/// The method is called md5 and means: SCRAM for a role with a SCRAM verifier, MD5 for one that has only an MD5 hash.
pub(super) fn host_based_authentication(superuser: &str) -> String {
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

    #[test]
    fn names_in_hba_are_quoted() {
        assert!(host_based_authentication("cloud \"x\" admin").contains("\"cloud \"\"x\"\" admin\"  trust"));
    }
}
