//! What all clients share below their meaning: how a connection is made, how it fails, how a body is read.
//!
//! Invariant: a failure is judged by its `std::io::ErrorKind`, found in the chain of causes, and never by its text.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use serde::de::DeserializeOwned;

use crate::token::{Grant, Source, TokenError};

/// What our clients call themselves.
pub(crate) const USER_AGENT: &str = concat!("pgfleet/", env!("CARGO_PKG_VERSION"));

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client")]
pub struct SetUpError(#[from] reqwest::Error);

/// The certificates that are trusted, in place of the system's.
#[derive(Debug, Clone)]
pub struct Roots(Vec<reqwest::Certificate>);

/// A file gave no certificates.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It cannot be read.
    #[error("cannot read the CA {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// What is in it is no certificate.
    #[error("the CA {path} is not PEM")]
    NotPem {
        /// The file.
        path: String,
        /// Why.
        source: reqwest::Error,
    },
    /// There is none in it.
    #[error("there is no certificate in the CA {path}")]
    Empty {
        /// The file.
        path: String,
    },
}

impl Roots {
    /// Reads the PEM certificates of a file.
    ///
    /// # Errors
    /// It cannot be read, or has no certificates.
    pub fn file(file: &Path) -> Result<Self, RootsError> {
        let path = file.display().to_string();
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(source) => return Err(RootsError::Unreadable { path, source }),
        };
        match reqwest::Certificate::from_pem_bundle(&bytes) {
            Ok(certificates) if certificates.is_empty() => Err(RootsError::Empty { path }),
            Ok(certificates) => Ok(Self(certificates)),
            Err(source) => Err(RootsError::NotPem { path, source }),
        }
    }
}

/// How a request that got no usable answer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nobody listens there. The request was not executed.
    Refused,
    /// The connection could not be made for another reason (no route, name unknown, TLS). Not executed.
    NoConnection,
    /// No answer in time. It may have been executed.
    Timeout,
    /// The connection broke on the way. It may have been executed.
    Broken,
    /// The answer is not one of ours. It may have been executed.
    Garbled,
}

impl Failure {
    /// Whether it is certain that the other side executed nothing.
    #[must_use]
    pub const fn is_unexecuted(self) -> bool {
        matches!(self, Self::Refused | Self::NoConnection)
    }

    /// In words, for an operator's line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::NoConnection => "cannot connect",
            Self::Timeout => "no answer in time",
            Self::Broken => "connection broke",
            Self::Garbled => "unintelligible answer",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&reqwest::Error> for Failure {
    fn from(error: &reqwest::Error) -> Self {
        let kind = io_kind(error);
        if error.is_connect() {
            return match kind {
                Some(io::ErrorKind::ConnectionRefused) => Self::Refused,
                _ if error.is_timeout() => Self::Timeout,
                _ => Self::NoConnection,
            };
        }
        if error.is_timeout() {
            return Self::Timeout;
        }
        if error.is_decode() && kind.is_none() { Self::Garbled } else { Self::Broken }
    }
}

/// The first `io::Error` in the chain of causes.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = current.source();
    }
    None
}

/// Selects aws-lc-rs for every TLS connection of this process. To be called first in `main`; later calls do nothing.
pub fn install_crypto_provider() {
    // An Err means that a provider is installed already, which is all that is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_per_host: usize,
}

impl Wire {
    /// One HTTP/1.1 client: no proxy from the environment (members and agents are addressed directly), no redirects
    /// (a token must not follow one).
    pub(crate) fn client(self) -> Result<reqwest::Client, SetUpError> {
        self.client_that_idles(Duration::from_secs(90))
    }

    /// The same, that trusts only `roots`.
    pub(crate) fn client_that_trusts(self, roots: &Roots) -> Result<reqwest::Client, SetUpError> {
        Ok(self.builder(Duration::from_secs(90)).tls_certs_only(roots.0.iter().cloned()).build()?)
    }

    /// The same, whose pooled connections are closed after this time without a request.
    pub(crate) fn client_that_idles(self, idle: Duration) -> Result<reqwest::Client, SetUpError> {
        let build = || self.builder(idle);
        // A machine without any CA certificates can still speak plain HTTP; TLS then fails at its first use.
        build().build().or_else(|_| build().tls_certs_only(std::iter::empty()).build()).map_err(SetUpError)
    }

    fn builder(self, idle: Duration) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(self.idle_per_host)
            .pool_idle_timeout(idle)
            .user_agent(concat!("pgfleet/", env!("CARGO_PKG_VERSION")))
    }
}

/// Adds the bearer token of `source`, if it has one.
pub(crate) fn authorize(
    request: reqwest::RequestBuilder,
    source: &Source,
    grant: &Grant,
) -> Result<reqwest::RequestBuilder, TokenError> {
    Ok(match source.token(grant)? {
        Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    })
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_body(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::from(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(Failure::Garbled);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads a JSON body of at most `limit` bytes.
pub(crate) async fn read_json<T: DeserializeOwned>(response: reqwest::Response, limit: usize) -> Result<T, Failure> {
    let body = read_body(response, limit).await?;
    serde_json::from_slice(&body).map_err(|_| Failure::Garbled)
}

/// `base` and `path` joined; a base URL may end in a slash.
pub(crate) fn join(base: &str, path: &str) -> String {
    format!("{}{path}", base.trim_end_matches('/'))
}
