//! One connection to PostgreSQL, spoken to with `tokio-postgres` itself.
//!
//! Why not diesel here: `diesel-async` maps a server error to a handful of kinds and drops the SQLSTATE of all others
//! (a deadlock, a lock timeout, a refused value and an administrator's shutdown all arrive as `Unknown`). Everything
//! that must tell those apart (the leader row, the fence, the writer) therefore uses this module, where
//! [`crate::DbError::class`] reads the code the server sent. Loads, lists, history and migrations stay with diesel;
//! both ways share the one connector below, so TLS and session settings cannot differ.
//!
//! Called by: `lease`, `notices`, `writer`, `database`, `migrate`. What it calls: `dial`. Invariants: every session carries the instance's
//! `application_name` and the limits of [`SessionKind`]; dropping a [`Session`] closes its connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{DatabaseConfig, Target, application_name};
use crate::dial::dial;
use crate::error::DbError;
use crate::notices::Notice;

/// Notices that wait for their reader before the connection is read no further.
const NOTICES: usize = 256;

/// What a connection is for; decides its server-side limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionKind {
    /// Leader row and writer: short statements, short lock waits.
    Control,
    /// Reads through the pool.
    Pool,
    /// Loads and catch-ups of the memory: one snapshot each, which a frozen process must not keep open for long.
    Follow,
    /// A migration may run long, but waits for a lock no longer than the others.
    Migration,
    /// LISTEN: waits for ever.
    Listen,
}

/// Makes connections, all in the same way.
#[derive(Clone)]
pub(crate) struct Connector {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    target: Arc<str>,
    lease: Duration,
    connect_timeout: Duration,
}

impl Connector {
    pub(crate) fn new(config: &DatabaseConfig) -> Result<Self, DbError> {
        let mut target = Target::parse(&config.url)?;
        let described = target.describe();
        let tls = tls_of(&target)?;
        target
            .config
            .application_name(application_name(config.instance_id))
            .connect_timeout(config.connect_timeout)
            .tcp_user_timeout(config.lease / 2)
            .keepalives(true)
            .keepalives_idle((config.lease / 4).max(Duration::from_secs(1)))
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(2);
        Ok(Self {
            config: target.config,
            tls,
            target: described.into(),
            lease: config.lease,
            connect_timeout: config.connect_timeout,
        })
    }

    /// `user@host:port/dbname`.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Longest time a control statement may take before its session is given up.
    pub(crate) fn patience(&self) -> Duration {
        self.lease
    }

    pub(crate) async fn session(&self, kind: SessionKind) -> Result<Session, DbError> {
        self.open(kind, None).await
    }

    /// A session whose notifications come out of the channel, which ends with it.
    pub(crate) async fn listening(&self) -> Result<(Session, mpsc::Receiver<Notice>), DbError> {
        let (told, heard) = mpsc::channel(NOTICES);
        Ok((self.open(SessionKind::Listen, Some(told)).await?, heard))
    }

    async fn open(&self, kind: SessionKind, told: Option<mpsc::Sender<Notice>>) -> Result<Session, DbError> {
        let config = self.configured(kind);
        let connect = async {
            let mut driver = JoinSet::new();
            let client = match &self.tls {
                Some(tls) => {
                    let (client, connection) = dial(&config, tls.clone()).await?;
                    driver.spawn(drive(connection, told));
                    client
                }
                None => {
                    let (client, connection) = dial(&config, NoTls).await?;
                    driver.spawn(drive(connection, told));
                    client
                }
            };
            Ok(Session { client, _driver: driver })
        };
        match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(source)) => Err(DbError::Connect { target: self.target.to_string(), source }),
            Err(_) => Err(DbError::Timeout { doing: "connected to it", after_ms: self.connect_timeout.as_millis() }),
        }
    }

    /// The same connection for diesel, which drives it itself.
    pub(crate) async fn diesel(&self, kind: SessionKind) -> Result<AsyncPgConnection, ConnectionError> {
        let config = self.configured(kind);
        let bad = |error: tokio_postgres::Error| {
            ConnectionError::CouldntSetupConfiguration(diesel::result::Error::QueryBuilderError(Box::new(error)))
        };
        let connect = async {
            match &self.tls {
                Some(tls) => {
                    let (client, connection) = dial(&config, tls.clone()).await.map_err(bad)?;
                    AsyncPgConnection::try_from_client_and_connection(client, connection).await
                }
                None => {
                    let (client, connection) = dial(&config, NoTls).await.map_err(bad)?;
                    AsyncPgConnection::try_from_client_and_connection(client, connection).await
                }
            }
        };
        tokio::time::timeout(self.connect_timeout, connect).await.unwrap_or_else(|_| {
            Err(ConnectionError::BadConnection(format!("no connection within {} ms", self.connect_timeout.as_millis())))
        })
    }

    fn configured(&self, kind: SessionKind) -> tokio_postgres::Config {
        let mut config = self.config.clone();
        let own = settings(kind, self.lease);
        let options = config.get_options().map_or_else(|| own.clone(), |given| format!("{given} {own}"));
        config.options(options);
        config
    }
}

/// Server-side settings of a session. All limits lie below the lease, so that what a dead or frozen controller holds
/// is let go before its successor has to wait for it.
fn settings(kind: SessionKind, lease: Duration) -> String {
    let lease_ms = lease.as_millis().max(1000);
    let (statement_ms, idle_ms) = match kind {
        SessionKind::Control => (lease_ms * 3 / 5, lease_ms / 4),
        SessionKind::Pool => (30_000, lease_ms / 4),
        SessionKind::Follow => (30_000, (lease_ms / 2).max(2000)),
        SessionKind::Migration => (0, lease_ms * 4),
        SessionKind::Listen => (0, lease_ms / 4),
    };
    let keepalive_s = (lease_ms / 5000).max(1);
    // A catch-up inside a hand-over and every batch of the writer read by index, whatever the statistics of a table say that
    // was filled a moment ago.
    let seqscan = if matches!(kind, SessionKind::Follow | SessionKind::Control) { "off" } else { "on" };
    // The writer's statements get arrays of every length; planned anew for each, planning is most of a small batch.
    let plans = if kind == SessionKind::Control { "force_generic_plan" } else { "auto" };
    [
        format!("enable_seqscan={seqscan}"),
        format!("plan_cache_mode={plans}"),
        // All our statements are short. On tables without statistics PostgreSQL takes one for long: compiling it took 300 ms
        // and starting workers for it 30 ms, inside a hand-over.
        "jit=off".to_owned(),
        "max_parallel_workers_per_gather=0".to_owned(),
        "synchronous_commit=on".to_owned(),
        "default_transaction_isolation=read\\ committed".to_owned(),
        format!("idle_in_transaction_session_timeout={idle_ms}"),
        "client_connection_check_interval=250".to_owned(),
        format!("statement_timeout={statement_ms}"),
        format!("lock_timeout={}", lease_ms / 5),
        format!("tcp_keepalives_idle={keepalive_s}"),
        format!("tcp_keepalives_interval={keepalive_s}"),
        "tcp_keepalives_count=2".to_owned(),
        format!("tcp_user_timeout={}", lease_ms / 2),
    ]
    .map(|setting| format!("-c {setting}"))
    .join(" ")
}

/// `None` with `sslmode=disable`. Otherwise the server's certificate and name are verified, always.
fn tls_of(target: &Target) -> Result<Option<MakeRustlsConnect>, DbError> {
    let mode = target.config.get_ssl_mode();
    if mode == SslMode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = || {
        rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| DbError::Config { reason: error.to_string() })
    };
    let config = match &target.root_cert {
        Some(path) => builder()?.with_root_certificates(roots_from(path)?),
        None => match builder()?.with_platform_verifier() {
            Ok(verified) => verified,
            // With `prefer` a server without TLS is fine; one with TLS will be refused, for there is no root to trust.
            Err(_) if mode == SslMode::Prefer => builder()?.with_root_certificates(rustls::RootCertStore::empty()),
            Err(error) => {
                return Err(DbError::Config {
                    reason: format!("no certificate roots on this machine ({error}); give sslrootcert"),
                });
            }
        },
    };
    Ok(Some(MakeRustlsConnect::new(config.with_no_client_auth())))
}

fn roots_from(path: &std::path::Path) -> Result<rustls::RootCertStore, DbError> {
    let unusable = |reason: String| DbError::Config { reason: format!("sslrootcert {}: {reason}", path.display()) };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// Moves the bytes of a connection until it ends, and hands on what the server says by itself.
async fn drive<S, T>(mut connection: Connection<S, T>, told: Option<mpsc::Sender<Notice>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match (message, &told) {
            (Ok(AsyncMessage::Notification(said)), Some(told)) => {
                let notice = Notice { channel: said.channel().to_owned(), payload: said.payload().to_owned() };
                if told.send(notice).await.is_err() {
                    return;
                }
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::debug!(%error, "a database connection ended");
                return;
            }
        }
    }
}

/// An open connection. Dropping it closes the socket, and PostgreSQL rolls back what was open.
pub(crate) struct Session {
    client: Client,
    _driver: JoinSet<()>,
}

impl Session {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}
