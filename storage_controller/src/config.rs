//! The command line, read and checked once into typed values. Called by `main`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pgfleet_domain::quarantine::Limits;
use pgfleet_persistence::Keep;
use pgfleet_runtime::exit::{ExitCode, USAGE};
use pgfleet_runtime::traces::TraceArgs;

/// A controller of a pgfleet cluster.
///
/// Exit codes: 0 done; 1 failed (a migration, a busy port); 64 usage or configuration; 69 the database is away at the
/// start; 77 the database does not let us in.
#[derive(Parser)]
#[command(name = "storage_controller", version, about, long_about, term_width = 100)]
pub struct Args {
    /// The controllers' database, postgres://user:password@host:port/name; several hosts with
    /// target_session_attrs=read-write follow a failover.
    #[arg(long, env = "PGFLEET_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7700")]
    pub listen: String,
    /// Base URL under which the other members reach this one, like http://10.0.0.5:7700. Not a load balancer: the
    /// member dials it at the start and must meet itself. On loopback it is made from the bound port.
    #[arg(long)]
    pub advertise: Option<String>,
    /// Public keys (JSON Web Key Set, Ed25519) of everybody whose tokens are accepted.
    #[arg(long)]
    pub jwks_file: Option<PathBuf>,
    /// This cluster's private key (PKCS#8 PEM, Ed25519); signs the tokens for peers and agents.
    #[arg(long)]
    pub jwt_private_key: Option<PathBuf>,
    /// Ask the current leader to step down, once: the rolling restart of one member.
    #[arg(long)]
    pub start_as_candidate: bool,
    /// Write the bound port to this file, as JSON, by rename.
    #[arg(long)]
    pub port_file: Option<PathBuf>,
    /// Length of a lease.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub lease: Duration,
    /// Distance of two renewals, and of two looks at the leader.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub lease_renew: Duration,
    /// How long before its end a lease counts as unproved. Default: a fifth of the lease.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub lease_margin: Option<Duration>,
    /// How long the database may take to answer at the start.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub db_connect_timeout: Duration,
    /// Connections for reads.
    #[arg(long, default_value_t = 4)]
    pub db_pool_size: usize,
    /// How long the leader gets to answer the request to step down.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub step_down_timeout: Duration,
    /// How long a step-down may take to drain and flush.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub step_down_grace: Duration,
    /// How long one migration may take, and the rehearsal of all of them. One that takes longer is rolled back, and the
    /// leader before leads on.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub migration_budget: Duration,
    /// How long a member that stepped down waits for its successor before it leads again. Default: 1s, or a quarter of a
    /// lease below 4s. Shorter than --step-down-hold.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub step_down_revert: Option<Duration>,
    /// How long everybody but the successor leaves a term alone after its step-down. Default: 2s, or half of a lease below
    /// 4s. Shorter than --lease.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub step_down_hold: Option<Duration>,
    /// How long a leader does not step down for a migration that failed just before its term.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    pub migration_retry: Duration,
    /// How long the end of the process may take: until another member leads, and until what was asked here is answered.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
    /// How long a request is held while nobody leads, before it is refused. 0s: not at all.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub handover_hold: Duration,
    /// Refuse what only the leader executes instead of handing it on. With --handover-hold 0s: plain rejection.
    #[arg(long)]
    pub no_forward: bool,
    /// Bytes of all requests together that are held or on their way to the leader; more wait unread.
    #[arg(long, default_value_t = 64 << 20)]
    pub hold_max_bytes: u32,
    /// A client that takes nothing of its answer for so long is cut; a watch goes on from the last event it has.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub client_stall: Duration,
    /// Computes worked on at once; one that takes longer than 250ms gives its place to another.
    #[arg(long, default_value_t = 128)]
    pub reconcile_concurrency: usize,
    /// How long the journal and the tombstones of deleted computes are kept.
    #[arg(long, default_value = "90days", value_parser = humantime::parse_duration)]
    pub journal_retention: Duration,
    /// What one partition of the journal spans; a whole partition is dropped at a time.
    #[arg(long, default_value = "1day", value_parser = humantime::parse_duration)]
    pub journal_period: Duration,
    /// Of them at one host, by the host of the agent's URL.
    #[arg(long, default_value_t = 16)]
    pub host_concurrency: usize,
    /// Agents asked per second, all together, that did not answer last, or not yet since this member leads. What an owner
    /// wants of an agent that answers does not wait for it.
    #[arg(long, default_value_t = 500)]
    pub connect_rate: u32,
    /// Pause between two looks at an agent right after something has changed; it doubles while nothing changes.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub probe_min: Duration,
    /// Longest pause between two looks at an agent. A shorter one than --probe-min bounds both.
    #[arg(long, alias = "probe-interval", default_value = "30s", value_parser = humantime::parse_duration)]
    pub probe_max: Duration,
    /// A compute whose agent has not answered for so long is offline.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub max_offline_interval: Duration,
    /// Log as JSON.
    #[arg(long)]
    pub log_json: bool,
    /// Panics in the work on one compute within --panic-window that are borne; one more quarantines it.
    #[arg(long, default_value_t = 5)]
    pub panic_limit: u32,
    /// How long a panic counts.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    pub panic_window: Duration,
    /// Pause before the first try of a quarantined compute; it doubles with each try, up to an hour.
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    pub quarantine_pause: Duration,
    /// Where traces go.
    #[command(flatten)]
    pub traces: TraceArgs,
    /// No keys needed, test doors open. Never in production.
    #[arg(long)]
    pub dev: bool,
    /// Test door: migrations to run after the embedded ones.
    #[arg(long)]
    pub migrations_dir: Option<PathBuf>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something that is needed in production is missing.
    #[error("{flag} is missing: {why} (--dev runs without it, on loopback, for trying things out)")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// What for.
        why: &'static str,
    },
    /// A value that cannot work.
    #[error("{flag}: {why}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// Why not.
        why: String,
    },
}

impl ExitCode for ConfigError {
    fn exit_code(&self) -> u8 {
        USAGE
    }
}

/// Longest pause between two tries of a quarantined compute.
const LONGEST_QUARANTINE_PAUSE: Duration = Duration::from_secs(3600);

/// Body limit of specs.
pub const MAX_SPEC_BYTES: usize = 4 << 20;

impl Args {
    /// Refuses what cannot work, naming the flag.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |flag, why: &str| Err(ConfigError::Invalid { flag, why: why.to_owned() });
        if !self.dev {
            let missing = |flag, why| Err(ConfigError::Missing { flag, why });
            if self.jwks_file.is_none() {
                return missing("--jwks-file", "without public keys no token can be checked");
            }
            if self.jwt_private_key.is_none() {
                return missing("--jwt-private-key", "without a private key there are no tokens for peers and agents");
            }
            if self.advertise.is_none() && !self.listens_on_loopback() {
                return missing("--advertise", "the other members need an address of this one");
            }
            if self.migrations_dir.is_some() {
                return invalid("--migrations-dir", "it is a test door and needs --dev");
            }
        }
        if self.jwks_file.is_none() && !self.listens_on_loopback() {
            return invalid("--listen", "without --jwks-file only a loopback address is listened on");
        }
        if let Some(address) = &self.advertise {
            let usable =
                url::Url::parse(address).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !usable {
                return invalid("--advertise", "it must look like http://10.0.0.5:7700");
            }
        }
        if self.lease < Duration::from_secs(1) {
            return invalid("--lease", "a lease has at least 1s");
        }
        if self.lease_renew.is_zero() || self.lease_renew * 3 > self.lease {
            return invalid("--lease-renew", "a lease needs room for three renewals");
        }
        if self.margin().is_zero() || self.margin() + self.lease_renew >= self.lease {
            return invalid("--lease-margin", "margin and one renewal must fit into the lease");
        }
        if (self.hold_max_bytes as usize) < MAX_SPEC_BYTES {
            return invalid("--hold-max-bytes", "one request may have 4194304 bytes, so at least that");
        }
        if self.panic_window.is_zero() {
            return invalid("--panic-window", "a panic has to count for some time");
        }
        if self.quarantine_pause.is_zero() {
            return invalid("--quarantine-pause", "a quarantine without a pause is none");
        }
        if self.migration_budget.is_zero() {
            return invalid("--migration-budget", "a migration needs some time");
        }
        if self.revert().is_zero() || self.revert() >= self.hold() {
            return invalid("--step-down-revert", "it must be shorter than --step-down-hold");
        }
        if self.hold() >= self.lease {
            return invalid("--step-down-hold", "it must be shorter than --lease");
        }
        if self.journal_period < Duration::from_secs(1) {
            return invalid("--journal-period", "a partition spans at least 1s");
        }
        if self.journal_retention < self.journal_period && !self.dev {
            return invalid("--journal-retention", "it must be at least --journal-period");
        }
        if self.reconcile_concurrency == 0 {
            return invalid("--reconcile-concurrency", "at least 1");
        }
        if self.host_concurrency == 0 {
            return invalid("--host-concurrency", "at least 1");
        }
        if self.connect_rate == 0 {
            return invalid("--connect-rate", "at least 1 in a second");
        }
        if self.probe_min.is_zero() || self.probe_max.is_zero() {
            return invalid("--probe-min", "a pause, and --probe-max as well");
        }
        Ok(())
    }

    /// The margin, or a fifth of the lease.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.lease_margin.unwrap_or(self.lease / 5)
    }

    /// How long the journal is kept.
    #[must_use]
    pub fn keep(&self) -> Keep {
        Keep::new(self.journal_period, self.journal_retention)
    }

    /// When a compute is quarantined, and how it is tried then.
    #[must_use]
    pub fn quarantine(&self) -> Limits {
        Limits {
            limit: self.panic_limit,
            window: self.panic_window,
            first_pause: self.quarantine_pause,
            longest_pause: LONGEST_QUARANTINE_PAUSE.max(self.quarantine_pause),
        }
    }

    /// How long a member that stepped down waits before it claims again.
    #[must_use]
    pub fn revert(&self) -> Duration {
        self.step_down_revert.unwrap_or_else(|| Duration::from_secs(1).min(self.lease / 4))
    }

    /// How long the others leave a term alone after its step-down.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.step_down_hold.unwrap_or_else(|| Duration::from_secs(2).min(self.lease / 2))
    }

    fn listens_on_loopback(&self) -> bool {
        match self.listen.parse::<SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => self.listen.rsplit_once(':').is_some_and(|(host, _)| {
                host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(extra: &[&str]) -> Args {
        let base = ["storage_controller", "--database-url", "postgres://localhost/x"];
        Args::parse_from(base.iter().chain(extra))
    }

    fn refused(extra: &[&str]) -> String {
        args(extra).check().unwrap_err().to_string()
    }

    #[test]
    fn production_needs_keys_and_an_address() {
        assert!(refused(&[]).starts_with("--jwks-file"));
        assert!(refused(&["--jwks-file", "a"]).starts_with("--jwt-private-key"));
        let keys = ["--jwks-file", "a", "--jwt-private-key", "b"];
        assert!(args(&keys).check().is_ok(), "on loopback the address is known");
        assert!(refused(&[&keys[..], &["--listen", "0.0.0.0:7700"]].concat()).starts_with("--advertise"));
        assert!(refused(&[&keys[..], &["--migrations-dir", "m"]].concat()).starts_with("--migrations-dir"));
    }

    #[test]
    fn dev_is_for_loopback() {
        assert!(args(&["--dev"]).check().is_ok());
        assert!(args(&["--dev", "--listen", "[::1]:0"]).check().is_ok());
        assert!(refused(&["--dev", "--listen", "0.0.0.0:1"]).starts_with("--listen"));
    }

    #[test]
    fn times_must_fit_each_other() {
        for (extra, flag) in [
            (["--lease", "100ms"], "--lease"),
            (["--lease-renew", "4s"], "--lease-renew"),
            (["--lease-margin", "5s"], "--lease-margin"),
            (["--step-down-revert", "2s"], "--step-down-revert"),
            (["--step-down-hold", "5s"], "--step-down-hold"),
            (["--advertise", "10.0.0.1:7"], "--advertise"),
            (["--hold-max-bytes", "1000"], "--hold-max-bytes"),
            (["--migration-budget", "0s"], "--migration-budget"),
            (["--journal-period", "0s"], "--journal-period"),
            (["--host-concurrency", "0"], "--host-concurrency"),
            (["--connect-rate", "0"], "--connect-rate"),
            (["--probe-max", "0s"], "--probe-min"),
        ] {
            assert!(refused(&[&["--dev"][..], &extra].concat()).starts_with(flag), "{flag}");
        }
        assert!(
            args(&["--dev", "--lease", "1s", "--lease-renew", "100ms"]).check().is_ok(),
            "the defaults fit any lease"
        );
    }
}
