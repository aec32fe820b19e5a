//! The typed settings of the database, and the URL taken apart: what the driver takes, and what only we understand.
//!
//! Called by: `database`, `session`. Invariant: nothing in here prints a password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pgfleet_api::InstanceId;
use tokio_postgres::config::{Host, SslMode};

use crate::error::DbError;
use crate::release::Release;

/// How to reach the database, and the limits that follow from the lease.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// `postgres://…`; several hosts with `target_session_attrs=read-write` follow a failover of the database.
    /// Beside the driver's parameters `sslmode=verify-full` and `verify-ca`, both the same as `require` here because
    /// the certificate is always verified, and `sslrootcert=FILE` (PEM) are understood.
    pub url: String,
    /// This process; part of the `application_name` of every session, so that a successor can end them all.
    pub instance_id: InstanceId,
    /// The lease; server-side limits are fractions of it.
    pub lease: Duration,
    /// Limit for making one connection.
    pub connect_timeout: Duration,
    /// Connections for loads, lists and history.
    pub pool_size: usize,
    /// This build: its schema number and migrations.
    pub release: Release,
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Target::parse(&self.url).map_or_else(|_| "unusable".to_owned(), |target| target.describe());
        f.debug_struct("DatabaseConfig")
            .field("url", &url)
            .field("instance_id", &self.instance_id)
            .field("lease", &self.lease)
            .field("connect_timeout", &self.connect_timeout)
            .field("pool_size", &self.pool_size)
            .field("release", &self.release.number())
            .finish()
    }
}

/// The name under which the sessions of a controller stand in `pg_stat_activity`.
#[must_use]
pub fn application_name(instance_id: InstanceId) -> String {
    format!("pgfleet/{instance_id}")
}

/// A URL taken apart.
pub(crate) struct Target {
    /// For the driver.
    pub(crate) config: tokio_postgres::Config,
    /// Roots to verify the server's certificate with, instead of the platform's.
    pub(crate) root_cert: Option<PathBuf>,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, DbError> {
        let config_error = |reason: String| DbError::Config { reason };
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(config_error("it must begin with postgres:// or postgresql://".to_owned()));
        }
        // A URL with several hosts is no URL to the `url` crate, so only the query is taken apart.
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut root_cert = None;
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslrootcert", path)) => root_cert = Some(PathBuf::from(decode(path))),
                Some(("sslmode", "verify-full" | "verify-ca")) => kept.push("sslmode=require"),
                Some(("sslmode", "allow")) => {
                    return Err(config_error(
                        "sslmode=allow is not supported: use disable, prefer or verify-full".into(),
                    ));
                }
                _ => kept.push(pair),
            }
        }
        let clean = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let config: tokio_postgres::Config = clean.parse().map_err(|error: tokio_postgres::Error| {
            use std::error::Error as _;
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            config_error(cause)
        })?;
        if config.get_hosts().is_empty() {
            return Err(config_error("it names no host".to_owned()));
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(config_error("it names no user".to_owned()));
        }
        if root_cert.is_some() && config.get_ssl_mode() == SslMode::Disable {
            return Err(config_error("sslrootcert has no use with sslmode=disable".to_owned()));
        }
        Ok(Self { config, root_cert })
    }

    /// `user@host:port/dbname`, for messages.
    pub(crate) fn describe(&self) -> String {
        let ports = self.config.get_ports();
        let hosts: Vec<String> = self
            .config
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(index, host)| {
                let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
                match host {
                    Host::Tcp(name) => format!("{name}:{port}"),
                    Host::Unix(path) => format!("{}:{port}", path.display()),
                }
            })
            .collect();
        let user = self.config.get_user().unwrap_or_default();
        let dbname = self.config.get_dbname().unwrap_or(user);
        format!("{user}@{}/{dbname}", hosts.join(","))
    }
}

fn decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("v={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_parameters_are_taken_out_of_the_url() {
        let target = Target::parse(
            "postgres://fleet:s3cret@a:1,b:2/meta?sslrootcert=/etc/my%20ca.pem&sslmode=verify-full&target_session_attrs=read-write",
        )
        .unwrap();
        assert_eq!(target.root_cert.as_deref(), Some(std::path::Path::new("/etc/my ca.pem")));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(target.describe(), "fleet@a:1,b:2/meta");
    }

    #[test]
    fn unusable_urls_say_why_and_keep_the_password() {
        for url in [
            "",
            "mysql://u:s3cret@h/db",
            "postgres://u:s3cret@h/db?nonsense=1",
            "postgres://u:s3cret@h:x/db",
            "postgres://:s3cret@h/db",
            "postgres://u:s3cret@h/db?sslmode=allow",
            "postgres://u:s3cret@h/db?sslmode=disable&sslrootcert=/x",
        ] {
            let error = Target::parse(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let config = DatabaseConfig {
            url: "postgres://fleet:s3cret@h/db".to_owned(),
            instance_id: InstanceId::generate(),
            lease: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            pool_size: 1,
            release: Release::this(),
        };
        let text = format!("{config:?}");
        assert!(!text.contains("s3cret") && text.contains("fleet@h:5432/db"), "{text}");
    }
}
