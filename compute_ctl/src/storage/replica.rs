//! A data directory that follows a primary: made by a base backup over the wire, with what is needed to stream on.
//!
//! `pg_basebackup` and `pg_receivewal` of the installation do it, as PostgreSQL's user. The password goes into a file that
//! this user alone may read; it is never an argument, a setting or a word of a log.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgfleet_api::ComputeId;
use pgfleet_api::spec::{ComputeSpec, Secret};
use pgfleet_domain::percent;
use url::Url;

use super::{StorageError, Unfit, initdb};
use crate::postgres::{ConfError, Postgres};

/// File whose presence makes PostgreSQL follow.
const SIGNAL_FILE: &str = "standby.signal";
/// Name of the password file in the state directory.
const PASSWORD_FILE: &str = "primary.pass";
/// Parameters that the URL of a primary may bring.
const PARAMETERS: [&str; 6] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "channel_binding"];
/// So that a primary that vanished is noticed: seconds, seconds, milliseconds.
const PATIENCE: [(&str, &str); 3] =
    [("connect_timeout", "10"), ("keepalives_idle", "30"), ("tcp_user_timeout", "60000")];
/// Settings that a copy must not take from its primary's `ALTER SYSTEM`: they would override the agent's.
const OWN_SETTINGS: [&str; 4] = ["primary_conninfo", "primary_slot_name", "hot_standby", "recovery_target"];

/// Where a replica copies and streams from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    /// Host, port, user and more, as libpq calls them.
    parameters: Vec<(String, String)>,
    password: Option<Secret>,
    slot: Option<String>,
}

impl Primary {
    /// Reads the primary of a spec.
    ///
    /// # Errors
    /// The field that is missing or cannot be used. Never its value.
    pub fn of(spec: &ComputeSpec) -> Result<Self, Unfit> {
        let unfit = |path: &'static str, msg: &str| Unfit { path, msg: msg.to_owned() };
        let connstr = |msg| unfit("primary_connstring", msg);
        let text = spec.primary_connstring.as_deref().ok_or_else(|| {
            connstr("a replica needs to know its primary: give it as postgresql://USER@HOST:PORT/DATABASE")
        })?;
        let url = Url::parse(text).map_err(|_| connstr("it is not a URL"))?;
        if !matches!(url.scheme(), "postgresql" | "postgres") {
            return Err(connstr("it does not begin with postgresql://"));
        }
        if url.password().is_some() {
            return Err(connstr("it must not hold a password: give that as primary_password"));
        }
        let decode = |part: &str| percent::decode(part).ok_or_else(|| connstr("it has a broken %-escape"));
        let user = decode(url.username())?;
        let host = decode(url.host_str().unwrap_or_default())?;
        if user.is_empty() || host.is_empty() {
            return Err(connstr("it must name a user and a host"));
        }
        let database = match decode(url.path().trim_start_matches('/'))? {
            none if none.is_empty() => "postgres".to_owned(),
            database => database,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port().unwrap_or(5432).to_string();
        let mut parameters: Vec<_> = [("host", host), ("port", port), ("user", user), ("dbname", database)]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        for (name, value) in url.query_pairs() {
            if !PARAMETERS.contains(&name.as_ref()) {
                return Err(connstr("of parameters it may have sslmode, the other ssl ones and channel_binding"));
            }
            parameters.push((name.into_owned(), value.into_owned()));
        }
        if spec.primary_password.as_ref().is_some_and(|password| password.0.contains(['\n', '\r'])) {
            return Err(unfit("primary_password", "it must be one line"));
        }
        if let Some(slot) = &spec.primary_slot_name
            && !is_slot_name(slot)
        {
            let msg = "a slot's name has 1 to 63 lower-case letters, digits and '_'";
            return Err(unfit("primary_slot_name", msg));
        }
        Ok(Self { parameters, password: spec.primary_password.clone(), slot: spec.primary_slot_name.clone() })
    }

    /// As libpq reads it. Without the password, which lies in `password_file`.
    fn conninfo(&self, password_file: &Path, name: &str) -> String {
        let file = self.password.as_ref().map(|_| ("passfile", password_file.display().to_string()));
        let own = PATIENCE.into_iter().map(|(name, value)| (name, value.to_owned()));
        let given = self.parameters.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let all = given.chain(own).chain([("application_name", name.to_owned())]).chain(file);
        let words: Vec<_> =
            all.map(|(name, value)| format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))).collect();
        words.join(" ")
    }
}

fn is_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether the data directory follows a primary.
#[must_use]
pub fn is_standby(data_dir: &Path) -> bool {
    data_dir.join(SIGNAL_FILE).exists()
}

/// What PostgreSQL needs to follow the primary. The password is not in it: [`keep_password`] puts it where it is found.
#[must_use]
pub fn follow(postgres: &Postgres, primary: &Primary, compute_id: &ComputeId) -> Vec<(String, String)> {
    let conninfo = primary.conninfo(&password_file(postgres), &compute_id.to_string());
    let slot = primary.slot.clone().unwrap_or_default();
    // On, so that a replica that runs can be asked.
    let settings = [("hot_standby", "on".to_owned()), ("primary_conninfo", conninfo), ("primary_slot_name", slot)];
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Forgets the password of a primary that is followed no more.
pub fn forget(postgres: &Postgres) {
    // Where it cannot be removed it stays closed to others.
    let _ = std::fs::remove_file(password_file(postgres));
}

fn password_file(postgres: &Postgres) -> PathBuf {
    postgres.options().state_dir.join(PASSWORD_FILE)
}

/// Writes the primary's password where PostgreSQL finds it, closed to others.
///
/// # Errors
/// It cannot be written.
pub fn keep_password(postgres: &Postgres, primary: &Primary) -> Result<(), ConfError> {
    match &primary.password {
        // For any host and user: the file is named for this one connection.
        Some(Secret(password)) => {
            let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
            postgres.replace(&password_file(postgres), &format!("*:*:*:*:{escaped}\n"))
        }
        None => {
            forget(postgres);
            Ok(())
        }
    }
}

/// Copies the primary into `fresh` and makes the copy one that follows.
pub(super) async fn make(
    postgres: &Postgres,
    fresh: &Path,
    primary: &Primary,
    compute_id: &ComputeId,
) -> Result<(), StorageError> {
    keep_password(postgres, primary).map_err(StorageError::Password)?;
    let conninfo = primary.conninfo(&password_file(postgres), &compute_id.to_string());
    let mut slot = Vec::new();
    if let Some(name) = &primary.slot {
        run(postgres, "pg_receivewal", &conninfo, &["--create-slot", "--if-not-exists", "--slot", name]).await?;
        slot.extend(["--slot", name]);
    }
    let directory = fresh.display().to_string();
    let mut arguments = vec!["--pgdata", &directory, "--wal-method=stream", "--checkpoint=fast"];
    // One sync of everything follows.
    arguments.push("--no-sync");
    arguments.extend(slot);
    run(postgres, "pg_basebackup", &conninfo, &arguments).await?;
    finish(postgres, fresh).map_err(|source| StorageError::Io { path: fresh.to_owned(), source })
}

async fn run(
    postgres: &Postgres,
    program: &'static str,
    conninfo: &str,
    arguments: &[&str],
) -> Result<(), StorageError> {
    let path = postgres.options().programs.beside(program);
    let mut command = postgres.command(&path);
    command.args(["--dbname", conninfo, "--no-password"]).args(arguments).stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| StorageError::Io { path, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.contains("error:")).or_else(|| said.lines().last());
    let said = line.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned());
    Err(StorageError::Backup { program, said })
}

/// What a copy lacks: files that its primary keeps elsewhere, a way in for the agent, and the signal.
fn finish(postgres: &Postgres, fresh: &Path) -> std::io::Result<()> {
    let options = postgres.options();
    let write = |name: &str, text: &str| {
        let path = fresh.join(name);
        std::fs::write(&path, text)?;
        options.run_as.map_or(Ok(()), |user| user.own(&path))
    };
    for name in ["postgresql.conf", "pg_ident.conf"] {
        if !fresh.join(name).exists() {
            write(name, "")?;
        }
    }
    let known = std::fs::read_to_string(fresh.join("pg_hba.conf")).unwrap_or_default();
    let own = initdb::host_based_authentication(&options.superuser);
    let way_in = initdb::way_in(&options.superuser);
    if known.is_empty() {
        write("pg_hba.conf", &own)?;
    } else if !known.contains(&way_in) {
        write("pg_hba.conf", &format!("# The first line is compute_ctl's.\n{way_in}{known}"))?;
    }
    if let Ok(text) = std::fs::read_to_string(fresh.join("postgresql.auto.conf")) {
        let foreign = |line: &&str| !OWN_SETTINGS.iter().any(|name| line.trim_start().starts_with(name));
        let kept: String = text.lines().filter(foreign).flat_map(|line| [line, "\n"]).collect();
        write("postgresql.auto.conf", &kept)?;
    }
    write(SIGNAL_FILE, "")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(more: Value) -> Result<Primary, Unfit> {
        let mut spec = json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "mode": "Replica",
            "cluster": {"roles": [], "databases": []}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Primary::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_password_is_nowhere_but_in_its_file() {
        let primary = of(json!({"primary_connstring": "postgresql://re%20pl@[::1]:5433/d?sslmode=require",
            "primary_password": "top:secret", "primary_slot_name": "s_1"}))
        .unwrap();
        let conninfo = primary.conninfo(Path::new("/s/it's"), "orders");
        assert!(
            conninfo.starts_with("host='::1' port='5433' user='re pl' dbname='d' sslmode='require' "),
            "{conninfo}"
        );
        assert!(conninfo.ends_with(r"application_name='orders' passfile='/s/it\'s'"), "{conninfo}");
        assert!(!conninfo.contains("secret") && !format!("{primary:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let url = "postgresql://r@h";
        for (more, path) in [
            (json!({}), "primary_connstring"),
            (json!({"primary_connstring": "host=x"}), "primary_connstring"),
            (json!({"primary_connstring": "postgresql://h"}), "primary_connstring"),
            (json!({"primary_connstring": "postgresql://r:pw@h"}), "primary_connstring"),
            (json!({"primary_connstring": "postgresql://r@h?passfile=/etc/shadow"}), "primary_connstring"),
            (json!({"primary_connstring": url, "primary_password": "a\nb"}), "primary_password"),
            (json!({"primary_connstring": url, "primary_slot_name": "No"}), "primary_slot_name"),
        ] {
            let error = of(more.clone()).unwrap_err();
            assert_eq!(error.path, path, "{more}");
            assert!(!error.msg.contains("pw"));
        }
    }
}
