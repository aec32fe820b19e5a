//! One HTTP/1.1 connection of a plain client: what is sent is sent once, and how it failed is known.
//!
//! Who calls it: the load. A connection that the other side has closed is opened anew before a request is sent, as every
//! client does; a request that was sent is never sent again by this module.

use std::fmt;
use std::io;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use pgfleet_api::{ErrorBody, ErrorCode};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long an answer may take: longer than a member holds a request.
const PATIENCE: Duration = Duration::from_secs(15);

/// The largest answer that is read.
const ANSWER_LIMIT: usize = 4 << 20;

/// Why a request failed, for a client that does not try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there: nothing was sent.
    Refused,
    /// The connection could not be made or broke.
    Broken,
    /// No answer in time.
    Timeout,
    /// An answer that is not 2xx, with its code if it is one of ours.
    Status(u16, Option<ErrorCode>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Broken => f.write_str("connection broke"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Status(status, Some(code)) => write!(f, "{status} {code:?}"),
            Self::Status(status, None) => write!(f, "{status}"),
        }
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its bearer token.
    pub token: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// A connection to one member, made when it is needed.
#[derive(Debug)]
pub struct Wire {
    authority: String,
    sender: Option<SendRequest<Body>>,
    driver: JoinSet<()>,
}

impl Wire {
    /// To the member with this base URL.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let authority = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { authority, sender: None, driver: JoinSet::new() }
    }

    /// Sends a request and gives the body of its answer, if that is a 2xx.
    ///
    /// # Errors
    /// [`Failure`]; after one that is no answer the connection is given up.
    pub async fn send(&mut self, ask: &Ask) -> Result<Vec<u8>, Failure> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(ask)).await.unwrap_or(Err(Failure::Timeout));
        if matches!(answer, Err(Failure::Refused | Failure::Broken | Failure::Timeout)) {
            self.close();
        }
        answer
    }

    /// Ends the connection; the next request makes another one.
    pub fn close(&mut self) {
        self.sender = None;
        self.driver = JoinSet::new();
    }

    async fn exchange(&mut self, ask: &Ask) -> Result<Vec<u8>, Failure> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.connect().await?;
        }
        let Some(sender) = &mut self.sender else { return Err(Failure::Broken) };
        let mut request = Request::builder().method(&ask.method).uri(&ask.path).header(HOST, &self.authority);
        if let Some(token) = &ask.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if !ask.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Body::from(ask.body.clone()));
        let request = request.unwrap_or_else(|error| panic!("{ask:?} is no request: {error}"));
        let answer = sender.send_request(request).await.map_err(|_| Failure::Broken)?;
        let status = answer.status();
        let body = to_bytes(Body::new(answer.into_body()), ANSWER_LIMIT).await.map_err(|_| Failure::Broken)?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let code = serde_json::from_slice::<ErrorBody>(&body).ok().map(|body| body.code);
        Err(Failure::Status(status.as_u16(), code))
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        self.close();
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            _ => Failure::Broken,
        })?;
        stream.set_nodelay(true).map_err(|_| Failure::Broken)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Broken)?;
        // How it ended is seen by the request on it.
        self.driver.spawn(async move { drop(connection.await) });
        self.sender = Some(sender);
        Ok(())
    }
}
