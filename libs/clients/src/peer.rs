//! Client of another member of the same cluster: who are you, please step down, and a stream to notice its end by.
//!
//! Who calls it: the leadership room. Invariants: the answers are the rows of the leadership's answer table, so a
//! refused connection (the process is dead) is never confused with silence (it may be alive); every probe and every
//! stream makes its own connection, because a pooled one that dies under a request could not tell the two apart. A
//! step-down is repeatable, so it may use a connection that is warm.

mod follow;
mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::controller::{ControllerStatus, StepDownRequest, StepDownResponse};
use pgfleet_api::{ErrorBody, ErrorCode, InstanceId, headers};
use reqwest::{Method, RequestBuilder};

use crate::token::{Grant, Source};
use crate::transport::{Failure, SetUpError, Wire, join, read_json};

pub use self::follow::{Follow, FollowEnd};
use self::snapshot::SnapshotReader;

/// A `/status` is below a kilobyte.
const STATUS_LIMIT: usize = 64 << 10;
/// An idle connection for a step-down is kept for this long; shorter than a member keeps one that is silent.
const WARM_FOR: Duration = Duration::from_secs(20);

/// Who this member is; a probe with these headers is how the leader learns of its peers.
#[derive(Debug, Clone)]
pub struct Identity {
    /// This process.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
    /// Program version.
    pub version: String,
}

/// What came of asking a peer for its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Somebody answered; whether it is who was meant is the caller's to compare.
    Status(Box<ControllerStatus>),
    /// Nobody listens at that address.
    Refused,
    /// No usable answer, for this reason: nothing is known.
    Silent(Failure),
}

/// Why a peer did not step down.
#[derive(Debug, thiserror::Error)]
pub enum StepDownError {
    /// It is not that leader; the body says who is, as far as it knows.
    #[error("{address} does not step down: {}", body.msg)]
    NotThatLeader {
        /// Its base URL.
        address: String,
        /// Its reason.
        body: Box<ErrorBody>,
    },
    /// It stays the leader: this member's migration failed a short while ago.
    #[error("{address} does not step down: {}", body.msg)]
    MigrationFailedBefore {
        /// Its base URL.
        address: String,
        /// Its reason.
        body: Box<ErrorBody>,
    },
    /// It does not accept our token. Retry once after [`PeerClient::reload_keys`].
    #[error("{address} does not accept our token ({status}): {msg}")]
    Unauthorized {
        /// Its base URL.
        address: String,
        /// 401 or 403.
        status: u16,
        /// Its reason.
        msg: String,
    },
    /// No connection: it did nothing.
    #[error("{address} cannot be reached: {failure}")]
    Unreachable {
        /// Its base URL.
        address: String,
        /// How; [`Failure::Refused`] means that nobody listens there.
        failure: Failure,
    },
    /// No answer in time; it may be stepping down.
    #[error("{address} gave no answer in time")]
    Timeout {
        /// Its base URL.
        address: String,
    },
    /// Anything else; it may be stepping down.
    #[error("{address} did not step down: {reason}")]
    Other {
        /// Its base URL.
        address: String,
        /// One line.
        reason: String,
    },
}

/// Client of a cluster's other members. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PeerClient {
    /// A new connection for each request.
    probe: reqwest::Client,
    /// Keeps a connection to whom it spoke to last.
    warm: reqwest::Client,
    tokens: Source,
    identity: Identity,
    reached: Arc<AtomicI64>,
}

impl PeerClient {
    /// A client that authenticates as `controller_peer`.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(identity: Identity, tokens: Source) -> Result<Self, SetUpError> {
        let connect_timeout = Duration::from_secs(1);
        let probe = Wire { connect_timeout, idle_per_host: 0 }.client()?;
        let warm = Wire { connect_timeout, idle_per_host: 1 }.client_that_keeps(WARM_FOR)?;
        Ok(Self { probe, warm, tokens, identity, reached: Arc::default() })
    }

    /// Notes the last change that this member's memory has reached; every later request says so.
    pub fn note_reached(&self, change_seq: i64) {
        self.reached.store(change_seq, Ordering::Relaxed);
    }

    /// Opens a connection to the member at `address` for a step-down that may come, or finds that there is one.
    pub async fn warm_up(&self, address: &str, timeout: Duration) {
        let request = self.request(&self.warm, Method::GET, address, "/status").timeout(timeout);
        if let Ok(response) = request.send().await {
            // A body that was read to its end gives its connection back.
            drop(read_json::<ControllerStatus>(response, STATUS_LIMIT).await);
        }
    }

    /// Asks the member at `address` what it is.
    pub async fn status(&self, address: &str, timeout: Duration) -> PeerAnswer {
        let request = self.request(&self.probe, Method::GET, address, "/status").timeout(timeout);
        let answer = async {
            let response = request.send().await.map_err(|error| Failure::from(&error))?;
            if !response.status().is_success() {
                return Err(Failure::Garbled);
            }
            read_json::<ControllerStatus>(response, STATUS_LIMIT).await
        };
        match answer.await {
            Ok(status) => PeerAnswer::Status(Box::new(status)),
            Err(Failure::Refused) => PeerAnswer::Refused,
            Err(failure) => PeerAnswer::Silent(failure),
        }
    }

    /// Asks the member at `address` to step down; without a request, whoever it is. Repeatable. Its answer brings the
    /// observed state of the whole fleet, however large: `patience` is for the answer to begin and then for each piece.
    ///
    /// # Errors
    /// See [`StepDownError`].
    pub async fn step_down(
        &self,
        address: &str,
        request: Option<&StepDownRequest>,
        patience: Duration,
    ) -> Result<StepDownResponse, StepDownError> {
        self.ask_step_down(address, "/control/v1/step_down", request, patience).await
    }

    /// The same for a member that knows the observed state already: the answer brings none of it.
    ///
    /// # Errors
    /// See [`StepDownError`].
    pub async fn step_down_warm(
        &self,
        address: &str,
        request: Option<&StepDownRequest>,
        patience: Duration,
    ) -> Result<StepDownResponse, StepDownError> {
        self.ask_step_down(address, "/control/v1/step_down?snapshot=none", request, patience).await
    }

    async fn ask_step_down(
        &self,
        address: &str,
        path: &str,
        request: Option<&StepDownRequest>,
        patience: Duration,
    ) -> Result<StepDownResponse, StepDownError> {
        let call = self.request(&self.warm, Method::PUT, address, path);
        let call = match request {
            Some(body) => call.json(body),
            None => call,
        };
        let failed = |failure| failed(address, failure);
        let answer = tokio::time::timeout(patience, call.send()).await.map_err(|_| failed(Failure::Timeout))?;
        let mut response = answer.map_err(|error| failed(Failure::from(&error)))?;
        let status = response.status().as_u16();
        if !response.status().is_success() {
            let body = tokio::time::timeout(patience, read_json::<ErrorBody>(response, STATUS_LIMIT)).await;
            return Err(refused(address, status, body.ok().and_then(Result::ok)));
        }
        let mut reader = SnapshotReader::default();
        loop {
            let piece = tokio::time::timeout(patience, response.chunk()).await.map_err(|_| failed(Failure::Timeout))?;
            match piece.map_err(|error| failed(Failure::from(&error)))? {
                Some(piece) => reader.take_in(&piece).map_err(failed)?,
                None => return reader.finish().map_err(failed),
            }
        }
    }

    /// Opens a stream of where the member at `address` stands; the first line is there within `patience`.
    ///
    /// # Errors
    /// [`FollowEnd`], of which only [`FollowEnd::Refused`] says something about its process.
    pub async fn follow(&self, address: &str, patience: Duration) -> Result<Follow, FollowEnd> {
        let request = self.request(&self.probe, Method::GET, address, "/control/v1/follow");
        let answer = tokio::time::timeout(patience, request.send()).await.map_err(|_| FollowEnd::Silent)?;
        Follow::begin(answer.map_err(|error| FollowEnd::from(Failure::from(&error)))?)
    }

    /// Reads the key file now, before the one repetition after [`StepDownError::Unauthorized`].
    pub fn reload_keys(&self) {
        self.tokens.reload();
    }

    fn request(&self, http: &reqwest::Client, method: Method, address: &str, path: &str) -> RequestBuilder {
        let request = http
            .request(method, join(address, path))
            .header(headers::MEMBER_INSTANCE, self.identity.instance_id.to_string())
            .header(headers::MEMBER_ADDRESS, &self.identity.address)
            .header(headers::MEMBER_VERSION, &self.identity.version)
            .header(headers::MEMBER_CHANGE_SEQ, self.reached.load(Ordering::Relaxed));
        match self.tokens.token(&Grant::of(Scope::ControllerPeer)) {
            Ok(Some(token)) => request.bearer_auth(token),
            Ok(None) => request,
            Err(error) => {
                // The status route is open, and step_down will say what is wrong with a call without a token.
                tracing::error!(%error, "no token for a peer; asking without one");
                request
            }
        }
    }
}

fn refused(address: &str, status: u16, body: Option<ErrorBody>) -> StepDownError {
    let address = address.to_owned();
    match (status, body) {
        (401 | 403, body) => {
            let msg = body.map_or_else(|| "no reason given".to_owned(), |body| body.msg);
            StepDownError::Unauthorized { address, status, msg }
        }
        (_, Some(body)) if body.code == ErrorCode::NotThatLeader => {
            StepDownError::NotThatLeader { address, body: Box::new(body) }
        }
        (_, Some(body)) if body.code == ErrorCode::MigrationFailedBefore => {
            StepDownError::MigrationFailedBefore { address, body: Box::new(body) }
        }
        (_, Some(body)) => StepDownError::Other { address, reason: format!("{status}: {}", body.msg) },
        (_, None) => StepDownError::Other { address, reason: format!("answered {status} without a reason") },
    }
}

fn failed(address: &str, failure: Failure) -> StepDownError {
    let address = address.to_owned();
    match failure {
        Failure::Refused | Failure::NoConnection => StepDownError::Unreachable { address, failure },
        Failure::Timeout => StepDownError::Timeout { address },
        Failure::Broken | Failure::Garbled => StepDownError::Other { address, reason: failure.as_str().to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Reply};
    use serde_json::json;

    const PATIENCE: Duration = Duration::from_millis(300);

    fn client() -> PeerClient {
        let identity = Identity {
            instance_id: InstanceId::generate(),
            address: "http://127.0.0.1:7".to_owned(),
            version: "1.2.3".to_owned(),
        };
        PeerClient::new(identity, Source::Fixed("t0k3n".to_owned())).unwrap()
    }

    #[tokio::test]
    async fn only_a_refused_connection_is_refused() {
        let client = client();
        assert_eq!(client.status(&Fake::refusing_url().await, PATIENCE).await, PeerAnswer::Refused);
        for (reply, failure) in [
            (Reply::Silence, Failure::Timeout),
            (Reply::Reset, Failure::Broken),
            (Reply::text(200, "{}"), Failure::Garbled),
            (Reply::text(500, ""), Failure::Garbled),
        ] {
            let fake = Fake::start(vec![reply]).await;
            assert_eq!(client.status(&fake.url, PATIENCE).await, PeerAnswer::Silent(failure));
        }
        let unroutable = client.status("http://name.invalid", PATIENCE).await;
        assert!(matches!(unroutable, PeerAnswer::Silent(_)), "{unroutable:?}");
    }

    #[tokio::test]
    async fn a_probe_names_its_sender() {
        let status = json!({"role": "leader", "instance_id": InstanceId::generate(), "address": "a", "version": "v",
            "term": 3, "leader": null});
        let fake = Fake::start(vec![Reply::json(200, &status)]).await;
        let client = client();
        client.note_reached(42);
        assert!(matches!(client.status(&fake.url, PATIENCE).await, PeerAnswer::Status(_)));
        let seen = fake.seen().await;
        for header in [
            "x-pgfleet-instance: ",
            "x-pgfleet-address: http://127.0.0.1:7",
            "x-pgfleet-version: 1.2.3",
            "x-pgfleet-change-seq: 42",
        ] {
            assert!(seen[0].contains(header), "{header} in {}", seen[0]);
        }
        assert!(seen[0].contains("authorization: Bearer t0k3n"));
    }

    #[tokio::test]
    async fn step_down_answers_are_typed() {
        let client = client();
        let done = json!({"format": 1, "term": 4, "complete": true, "computes": {}});
        let fake = Fake::start(vec![Reply::json(200, &done)]).await;
        assert!(client.step_down(&fake.url, None, PATIENCE).await.unwrap().complete);
        let fake = Fake::start(vec![Reply::json(409, &json!({"code": "not_that_leader", "msg": "m"}))]).await;
        let error = client.step_down(&fake.url, None, PATIENCE).await.unwrap_err();
        assert!(matches!(error, StepDownError::NotThatLeader { .. }), "{error}");
        let fake = Fake::start(vec![Reply::json(409, &json!({"code": "migration_failed_before", "msg": "m"}))]).await;
        let error = client.step_down_warm(&fake.url, None, PATIENCE).await.unwrap_err();
        assert!(matches!(error, StepDownError::MigrationFailedBefore { .. }), "{error}");
        let seen = fake.seen().await;
        assert!(seen[0].starts_with("PUT /control/v1/step_down?snapshot=none "), "{}", seen[0]);
        let fake = Fake::start(vec![Reply::json(403, &json!({"code": "forbidden", "msg": "m"}))]).await;
        let error = client.step_down(&fake.url, None, PATIENCE).await.unwrap_err();
        assert!(matches!(error, StepDownError::Unauthorized { status: 403, .. }), "{error}");
        let fake = Fake::start(vec![Reply::Silence]).await;
        let error = client.step_down(&fake.url, None, PATIENCE).await.unwrap_err();
        assert!(matches!(error, StepDownError::Timeout { .. }), "{error}");
        let error = client.step_down(&Fake::refusing_url().await, None, PATIENCE).await.unwrap_err();
        assert!(matches!(error, StepDownError::Unreachable { failure: Failure::Refused, .. }), "{error}");
    }
}
