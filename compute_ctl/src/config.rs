//! Flags, read once into typed values. What cannot be used is refused here with one line.

mod accepted;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Parser;
use pgfleet_api::ComputeId;
use pgfleet_domain::percent;
use pgfleet_runtime::exit::{ExitCode, USAGE};
use pgfleet_runtime::traces::TraceArgs;
use serde_json::Value;
use url::Url;

use crate::lifecycle::RestartPostgres;
use crate::resources::ResourceArgs;

/// Owns one PostgreSQL server and makes it follow the specs it is given.
#[derive(Debug, Parser)]
#[command(name = "compute_ctl", version)]
pub struct Args {
    /// The PostgreSQL server program of an installation (…/bin/postgres)
    #[arg(short = 'b', long, env = "POSTGRES_PATH", default_value = "postgres", value_name = "PATH")]
    pub pgbin: PathBuf,
    /// Data directory; made with initdb when it is absent or empty
    #[arg(short = 'D', long, value_name = "DIR")]
    pub pgdata: PathBuf,
    /// Superuser, port and database, like postgresql://cloud_admin@127.0.0.1:5432/postgres
    #[arg(short = 'C', long, value_name = "URL")]
    pub connstr: String,
    /// The compute this agent owns
    #[arg(short = 'i', long, value_name = "ID")]
    pub compute_id: String,
    /// A bare spec to start with
    #[arg(short = 'S', long, value_name = "FILE", conflicts_with = "config")]
    pub spec_path: Option<PathBuf>,
    /// A bare spec to start with, as JSON on the command line: a verifier in it can be seen by others on this machine
    #[arg(short = 's', long, value_name = "JSON", conflicts_with_all = ["config", "spec_path"])]
    pub spec: Option<String>,
    /// A spec and keys to start with: {"spec": …, "compute_ctl_config": …}
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Base URLs of the control plane's members to ask for a spec, any of them (repeated, or with commas between); its
    /// token comes from NEON_CONTROL_PLANE_TOKEN
    #[arg(short = 'p', long, value_name = "URL", value_delimiter = ',')]
    pub control_plane_uri: Vec<String>,
    /// Tell the control plane of -p about each change of the status, so that it need not wait for its next look
    #[arg(long, requires = "control_plane_uri")]
    pub report: bool,
    /// Port for controllers and operators
    #[arg(long, default_value_t = 3080, value_name = "PORT")]
    pub external_http_port: u16,
    /// Port for programs on this machine
    #[arg(long, default_value_t = 3081, value_name = "PORT")]
    pub internal_http_port: u16,
    /// Both ports: this one and the next (0 takes two free ones)
    #[arg(long, conflicts_with_all = ["external_http_port", "internal_http_port"], value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Address of the external port; other than loopback needs keys
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub http_host: String,
    /// Public keys of those who may give orders (JSON Web Key Set), read again when it changes
    #[arg(long, value_name = "FILE")]
    pub jwks_file: Option<PathBuf>,
    /// The agent's own files [default: beside the data directory, <pgdata>.pgfleet]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// User that PostgreSQL runs as when the agent is root
    #[arg(long, default_value = "postgres", value_name = "NAME")]
    pub postgres_user: String,
    /// Role that every new role is made a member of (small letters and '_'); made where it is absent
    #[arg(long, default_value = "neon_superuser", value_name = "NAME")]
    pub privileged_role_name: String,
    /// Take over a data directory that compute_ctl did not make
    #[arg(long)]
    pub adopt: bool,
    /// Write the real ports as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// Open the doors for tests
    #[arg(long)]
    pub dev: bool,
    /// End the process when the compute fails
    #[arg(long)]
    pub exit_on_failure: bool,
    /// What to do when PostgreSQL ends by itself
    #[arg(long, value_enum, default_value = "on-crash", value_name = "WHEN")]
    pub restart_postgres: RestartPostgres,
    /// How long a fast stop of PostgreSQL may take before an immediate one
    #[arg(long, default_value_t = 60, value_name = "SECS")]
    pub pg_stop_timeout: u64,
    /// Length at which PostgreSQL's log file is cut; one earlier part is kept
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub pg_log_max_mb: u64,
    /// Log as JSON
    #[arg(long)]
    pub log_json: bool,
    /// Seconds between two counts of installed extensions
    #[arg(long, default_value_t = 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub installed_extensions_collection_interval: u64,
    /// Memory and pressure
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Where traces go
    #[command(flatten)]
    pub traces: TraceArgs,
    /// What other agents know
    #[command(flatten)]
    pub accepted: accepted::Accepted,
}

/// A flag cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `-C`.
    #[error("-C cannot be used: {0}; give it as postgresql://USER@HOST:PORT/DATABASE")]
    Connstr(&'static str),
    /// `-i`.
    #[error("-i cannot be used: {0}")]
    ComputeId(pgfleet_api::ids::InvalidId),
    /// `--privileged-role-name`.
    #[error("--privileged-role-name cannot be {0:?}: {1}")]
    PrivilegedRole(String, &'static str),
    /// `--http-host`.
    #[error("--http-host must be an IP address, not {0:?}")]
    HttpHost(String),
    /// `--http-port`.
    #[error("--http-port must be below 65535: the internal port is the next one")]
    HttpPort,
    /// `-p`.
    #[error("-p must be an http or https URL")]
    ControlPlane,
    /// `-S`, `-c`.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `-S`, `-c`.
    #[error("{path} is not JSON")]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// `-S`, `-c`.
    #[error("{path} cannot be used")]
    Spec {
        /// The file.
        path: PathBuf,
        /// Which field.
        #[source]
        source: pgfleet_domain::spec::SpecError,
    },
    /// A path of the file system.
    #[error("{path} cannot be made absolute")]
    Path {
        /// What was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ExitCode for ConfigError {
    fn exit_code(&self) -> u8 {
        USAGE
    }
}

/// `-C`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connstr {
    /// Name of the superuser.
    pub superuser: String,
    /// Port of PostgreSQL.
    pub port: u16,
    /// Database to connect to.
    pub database: String,
}

impl FromStr for Connstr {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let url = Url::parse(text).map_err(|_| ConfigError::Connstr("it is not a URL"))?;
        if !matches!(url.scheme(), "postgresql" | "postgres") {
            return Err(ConfigError::Connstr("it does not begin with postgresql://"));
        }
        let decode = |part: &str| percent::decode(part).ok_or(ConfigError::Connstr("it has a broken %-escape"));
        let superuser = decode(url.username())?;
        if superuser.is_empty() || superuser.len() > 63 || superuser.starts_with("pg_") {
            return Err(ConfigError::Connstr("it names no user that PostgreSQL can have"));
        }
        let database = match decode(url.path().trim_start_matches('/'))? {
            none if none.is_empty() => "postgres".to_owned(),
            database => database,
        };
        let port = url.port().unwrap_or(5432);
        if port == 0 {
            return Err(ConfigError::Connstr("its port is 0"));
        }
        Ok(Self { superuser, port, database })
    }
}

/// Flags that passed.
#[derive(Debug)]
pub struct Config {
    /// The flags as given, for what needs no reading.
    pub args: Args,
    /// `-i`.
    pub compute_id: ComputeId,
    /// `-C`.
    pub connstr: Connstr,
    /// `-D`, absolute.
    pub pgdata: PathBuf,
    /// `--state-dir`, absolute.
    pub state_dir: PathBuf,
    /// Spec of `-S` or `-c`.
    pub spec: Option<Value>,
    /// Key set of `-c`, unless it is empty.
    pub jwks: Option<Value>,
    /// `--http-host`.
    pub http_host: IpAddr,
    /// External and internal port.
    pub ports: (u16, u16),
}

impl Config {
    /// Reads what the flags name.
    ///
    /// # Errors
    /// The first flag that cannot be used.
    pub fn from_args(args: Args) -> Result<Self, ConfigError> {
        let named = absolute(&args.pgdata)?;
        let state_dir = match &args.state_dir {
            Some(dir) => absolute(dir)?,
            None => {
                let mut beside = named.as_os_str().to_owned();
                beside.push(".pgfleet");
                PathBuf::from(beside)
            }
        };
        let (spec, jwks) = read_specs(&args)?;
        let ports = match args.http_port {
            Some(0) => (0, 0),
            Some(port) => (port, port.checked_add(1).ok_or(ConfigError::HttpPort)?),
            None => (args.external_http_port, args.internal_http_port),
        };
        for uri in &args.control_plane_uri {
            let url = Url::parse(uri).map_err(|_| ConfigError::ControlPlane)?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(ConfigError::ControlPlane);
            }
        }
        let http_host = match args.http_host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            text => text.parse().map_err(|_| ConfigError::HttpHost(text.to_owned()))?,
        };
        let connstr: Connstr = args.connstr.parse()?;
        check_privileged_role(&args.privileged_role_name, &connstr)?;
        Ok(Self {
            compute_id: args.compute_id.parse().map_err(ConfigError::ComputeId)?,
            connstr,
            pgdata: behind_links(&named),
            state_dir,
            spec,
            jwks,
            http_host,
            ports,
            args,
        })
    }
}

fn check_privileged_role(name: &str, connstr: &Connstr) -> Result<(), ConfigError> {
    let refuse = |why| Err(ConfigError::PrivilegedRole(name.to_owned(), why));
    if name.is_empty() || name.len() > 63 || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return refuse("it is made of small letters and '_', 63 at most");
    }
    if name.starts_with("pg_") {
        return refuse("names that begin with pg_ are PostgreSQL's own");
    }
    if name == connstr.superuser {
        return refuse("it is the superuser of -C");
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    let path = std::path::absolute(path).map_err(|source| ConfigError::Path { path: path.to_owned(), source })?;
    // Without a last slash, so that names can be made beside it.
    Ok(path.components().collect())
}

/// Where a data directory really lies: one is made beside that place and renamed onto it, and a link is no such place.
fn behind_links(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.read_link(), path.parent()) {
        // A link whose end is not made yet.
        (Ok(end), Some(parent)) => parent.join(end).components().collect(),
        (Ok(_) | Err(_), _) => path.to_owned(),
    }
}

type Given = (Option<Value>, Option<Value>);

fn read_specs(args: &Args) -> Result<Given, ConfigError> {
    if let Some(text) = &args.spec {
        let path = Path::new("--spec");
        let spec =
            serde_json::from_str(text).map_err(|source| ConfigError::NotJson { path: path.to_owned(), source })?;
        check(path, &spec)?;
        return Ok((Some(spec), None));
    }
    if let Some(path) = &args.spec_path {
        let spec = read_json(path)?;
        check(path, &spec)?;
        return Ok((Some(spec), None));
    }
    let Some(path) = &args.config else { return Ok((None, None)) };
    let mut document = read_json(path)?;
    if !document.is_object() {
        let source =
            serde::de::Error::custom("a configuration is an object: {\"spec\": ..., \"compute_ctl_config\": ...}");
        return Err(ConfigError::NotJson { path: path.clone(), source });
    }
    let spec = document.get_mut("spec").map(Value::take).filter(|spec| !spec.is_null());
    if let Some(spec) = &spec {
        check(path, spec)?;
    }
    let jwks = document.pointer_mut("/compute_ctl_config/jwks").map(Value::take).unwrap_or_default();
    let holds_keys = jwks["keys"].as_array().is_some_and(|keys| !keys.is_empty());
    Ok((spec, holds_keys.then_some(jwks)))
}

fn read_json(path: &Path) -> Result<Value, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::NotJson { path: path.to_owned(), source })
}

fn check(path: &Path, spec: &Value) -> Result<(), ConfigError> {
    pgfleet_domain::spec::parse(spec).map(drop).map_err(|source| ConfigError::Spec { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_privileged_role_is_a_plain_name() {
        let connstr: Connstr = "postgresql://cloud_admin@127.0.0.1:5433/postgres".parse().unwrap();
        assert!(check_privileged_role("neon_superuser", &connstr).is_ok());
        for bad in ["", "Neon", "neon1", "a\"b", "pg_x", "cloud_admin", &"x".repeat(64)] {
            assert!(check_privileged_role(bad, &connstr).is_err(), "{bad}");
        }
    }

    #[test]
    fn connstr() {
        let good: Connstr = "postgresql://cloud_admin@127.0.0.1:5433/postgres".parse().unwrap();
        assert_eq!(good, Connstr { superuser: "cloud_admin".into(), port: 5433, database: "postgres".into() });
        let short: Connstr = "postgres://a%20b@h".parse().unwrap();
        assert_eq!(short, Connstr { superuser: "a b".into(), port: 5432, database: "postgres".into() });
        for bad in [
            "",
            "host=x user=y",
            "http://a@b/c",
            "postgresql://host/db",
            "postgresql://a@h:0/d",
            "postgresql://a@h:99999/d",
        ] {
            assert!(bad.parse::<Connstr>().is_err(), "{bad}");
        }
    }
}
