//! Client of an agent: one for the whole fleet, shared by every push and probe of a controller.
//!
//! Who calls it: the controller's post room, tests. Invariants: one attempt per call (whether and when to try again is
//! the reconciler's decision); every call carries a deadline; a refusal keeps the agent's own body, because its
//! highest fence is how a stale leader learns that it is one.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use pgfleet_api::agent::{AgentErrorBody, AgentStatus, TerminateMode, TerminateRequest, TerminateResponse};
use pgfleet_api::plan::PlanResponse;
use pgfleet_api::{ErrorBody, ErrorCode, Fence, FenceMark, SpecText};
use reqwest::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;

use crate::connections::{ConnectionStats, Connections};
use crate::token::{Grant, Source, TokenError};
use crate::transport::{Failure, SetUpError, Wire, authorize, join, read_body};

/// A status document is some kilobytes; this bounds what a stranger at an agent's address can make us hold.
const ANSWER_LIMIT: usize = 4 << 20;
/// Open connections of a client that was given no other number.
const ROOM: usize = 256;
/// A connection with TLS is kept for a push and the looks after it: how many there are is bounded per agent only.
const TLS_IDLE: Duration = Duration::from_secs(5);

/// Deadlines of an [`AgentClient`].
#[derive(Debug, Clone, Copy)]
pub struct AgentTimeouts {
    /// For the connection.
    pub connect: Duration,
    /// For `GET /status`, all in.
    pub status: Duration,
    /// For a push; the agent answers as soon as its ledger is durable.
    pub configure: Duration,
    /// For `POST /plan`, which may run the server program some dozen times.
    pub plan: Duration,
    /// For `POST /terminate`, which waits until PostgreSQL is gone.
    pub terminate: Duration,
}

impl Default for AgentTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            status: Duration::from_secs(3),
            configure: Duration::from_secs(10),
            plan: Duration::from_secs(10),
            terminate: Duration::from_secs(60),
        }
    }
}

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No connection: the agent did nothing.
    #[error("the agent at {url} cannot be reached: {failure}")]
    Unreachable {
        /// Its base URL.
        url: String,
        /// How.
        failure: Failure,
    },
    /// No answer in time; it may have acted.
    #[error("the agent at {url} gave no answer in time")]
    Timeout {
        /// Its base URL.
        url: String,
    },
    /// It answered with a reason.
    #[error("the agent at {url} refused ({status}): {}", body.error)]
    Refused {
        /// Its base URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its reason.
        body: Box<AgentErrorBody>,
    },
    /// It does not trust our token, or the token's scope is not enough.
    #[error("the agent at {url} does not accept our token ({status}): {msg}")]
    Unauthorized {
        /// Its base URL.
        url: String,
        /// 401 or 403.
        status: u16,
        /// Its reason.
        msg: String,
    },
    /// The connection broke or the answer is none of an agent's; it may have acted.
    #[error("the agent at {url} gave no usable answer{}: {failure}", with_status(*status))]
    Garbled {
        /// Its base URL.
        url: String,
        /// HTTP status, if there was an answer.
        status: Option<u16>,
        /// How.
        failure: Failure,
    },
    /// We have no token to send.
    #[error("no token for the agent at {url}")]
    Token {
        /// Its base URL.
        url: String,
        /// Why.
        #[source]
        source: TokenError,
    },
}

impl AgentError {
    /// The highest fence the agent has seen, if its refusal names it.
    #[must_use]
    pub fn highest(&self) -> Option<FenceMark> {
        self.refusal().and_then(|body| body.highest)
    }

    /// The agent's code, if it answered at all; what it says is not always what it was asked for.
    #[must_use]
    pub fn answered(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { body, .. } => Some(body.body.code),
            Self::Unauthorized { .. } => Some(ErrorCode::Unauthorized),
            Self::Garbled { status: Some(_), .. } => Some(ErrorCode::Unknown),
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Garbled { .. } | Self::Token { .. } => None,
        }
    }

    /// The agent's error body, if it refused with one.
    #[must_use]
    pub fn refusal(&self) -> Option<&ErrorBody> {
        match self {
            Self::Refused { body, .. } => Some(&body.body),
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Unauthorized { .. }
            | Self::Garbled { .. }
            | Self::Token { .. } => None,
        }
    }
}

/// Client of every agent of a fleet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentClient {
    /// For agents behind TLS, which are few so far.
    http: reqwest::Client,
    plain: Connections,
    tokens: Source,
    grant: Grant,
    timeouts: AgentTimeouts,
}

impl AgentClient {
    /// A client that authenticates as a controller (`compute_ctl:admin`).
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(tokens: Source, timeouts: AgentTimeouts) -> Result<Self, SetUpError> {
        Self::with_grant(tokens, Grant::agent_admin(), timeouts)
    }

    /// A client that authenticates with another grant.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn with_grant(tokens: Source, grant: Grant, timeouts: AgentTimeouts) -> Result<Self, SetUpError> {
        let http = Wire { connect_timeout: timeouts.connect, idle_per_host: 1 }.client_that_idles(TLS_IDLE)?;
        let plain = Connections::new(ROOM, timeouts.connect);
        Ok(Self { http, plain, tokens, grant, timeouts })
    }

    /// The same, with at most so many connections open at once.
    #[must_use]
    pub fn with_room(mut self, connections: usize) -> Self {
        self.plain = Connections::new(connections, self.timeouts.connect);
        self
    }

    /// What its connections are now.
    #[must_use]
    pub fn connections(&self) -> ConnectionStats {
        self.plain.stats()
    }

    /// Whether a call to the agent would need no new connection. Of one behind TLS that is not known, and not said.
    #[must_use]
    pub fn is_connected(&self, url: &str) -> bool {
        self.plain.holds(url)
    }

    /// What the agent says about itself.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn status(&self, url: &str) -> Result<AgentStatus, AgentError> {
        let request = self.http.request(Method::GET, join(url, "/status"));
        self.call(url, request, self.timeouts.status).await
    }

    /// Hands over a spec and returns as soon as the agent holds it durably (`Prefer: respond-async`).
    ///
    /// # Errors
    /// See [`AgentError`]; [`AgentError::highest`] after a stale fence.
    pub async fn configure(&self, url: &str, spec: &SpecText, fence: &Fence) -> Result<AgentStatus, AgentError> {
        let request = self.http.request(Method::POST, join(url, "/configure")).header("prefer", "respond-async");
        let request = with_spec(request, spec, Some(fence));
        self.call(url, request, self.timeouts.configure).await
    }

    /// Asks what a spec would do. The agent does nothing.
    ///
    /// # Errors
    /// See [`AgentError`]; a spec that would be refused is an answer, not an error.
    pub async fn plan(&self, url: &str, spec: &SpecText) -> Result<PlanResponse, AgentError> {
        let request = with_spec(self.http.request(Method::POST, join(url, "/plan")), spec, None);
        self.call(url, request, self.timeouts.plan).await
    }

    /// Asks the agent to stop PostgreSQL for good.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn terminate(&self, url: &str, mode: TerminateMode) -> Result<TerminateResponse, AgentError> {
        let request = self.http.request(Method::POST, join(url, "/terminate")).query(&[("mode", mode)]);
        self.call(url, request, self.timeouts.terminate).await
    }

    /// As [`Self::terminate`], under a fence: one that the agent does not hold is refused.
    ///
    /// # Errors
    /// See [`AgentError`]; [`AgentError::highest`] after a stale fence.
    pub async fn end(&self, url: &str, fence: Fence, mode: TerminateMode) -> Result<TerminateResponse, AgentError> {
        let request = self.http.request(Method::POST, join(url, "/terminate")).query(&[("mode", mode)]);
        self.call(url, request.json(&TerminateRequest { fence: Some(fence) }), self.timeouts.terminate).await
    }

    /// Asks the agent to stop PostgreSQL for good if nobody has used it for so long. Its own look decides: it refuses with
    /// `not_idle`.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn suspend(&self, url: &str, fence: Fence, idle: Duration) -> Result<TerminateResponse, AgentError> {
        let query = [("mode", "fast".to_owned()), ("if_idle_ms", idle.as_millis().to_string())];
        let request = self.http.request(Method::POST, join(url, "/terminate")).query(&query);
        let request = request.json(&TerminateRequest { fence: Some(fence) });
        self.call(url, request, self.timeouts.terminate).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        url: &str,
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<T, AgentError> {
        let request = authorize(request.timeout(timeout), &self.tokens, &self.grant)
            .map_err(|source| AgentError::Token { url: url.to_owned(), source })?;
        let request = request.build().map_err(|error| failed(url, None, Failure::from(&error)))?;
        let answer = match plain(&request) {
            Some(request) => tokio::time::timeout(timeout, self.plain.exchange(request, ANSWER_LIMIT))
                .await
                .unwrap_or(Err(Failure::Timeout)),
            None => self.by_tls(request).await,
        };
        let (status, body) = answer.map_err(|failure| failed(url, None, failure))?;
        decode(url, status, &body)
    }

    async fn by_tls(&self, request: reqwest::Request) -> Result<(u16, Vec<u8>), Failure> {
        let response = self.http.execute(request).await.map_err(|error| Failure::from(&error))?;
        let status = response.status().as_u16();
        Ok((status, read_body(response, ANSWER_LIMIT).await?))
    }
}

/// The same request for our own connections; `None` if it needs TLS.
fn plain(request: &reqwest::Request) -> Option<http::Request<Full<Bytes>>> {
    if request.url().scheme() != "http" {
        return None;
    }
    let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
    let mut plain = http::Request::new(Full::new(Bytes::copy_from_slice(body)));
    *plain.method_mut() = request.method().clone();
    *plain.uri_mut() = request.url().as_str().parse().ok()?;
    *plain.headers_mut() = request.headers().clone();
    plain.headers_mut().insert(USER_AGENT, HeaderValue::from_static(crate::transport::USER_AGENT));
    Some(plain)
}

/// The body of a [`pgfleet_api::agent::ConfigureRequest`], with the spec's own text in it: nobody makes it again.
fn with_spec(request: RequestBuilder, spec: &SpecText, fence: Option<&Fence>) -> RequestBuilder {
    // Values of ours always have a text.
    let fence = fence.and_then(|fence| serde_json::to_string(fence).ok());
    let mut body = String::with_capacity(spec.len() + fence.as_ref().map_or(0, String::len) + 24);
    body.push_str("{\"spec\":");
    body.push_str(spec.as_str());
    if let Some(fence) = fence {
        body.push_str(",\"fence\":");
        body.push_str(&fence);
    }
    body.push('}');
    request.header(CONTENT_TYPE, "application/json").body(body)
}

fn decode<T: DeserializeOwned>(url: &str, status: u16, body: &[u8]) -> Result<T, AgentError> {
    if (200..300).contains(&status) {
        return serde_json::from_slice(body).map_err(|_| failed(url, Some(status), Failure::Garbled));
    }
    let body = serde_json::from_slice::<AgentErrorBody>(body).map_err(|_| Failure::Garbled);
    let url = url.to_owned();
    match (status, body) {
        (401 | 403, body) => {
            let msg = body.map_or_else(|_| "no reason given".to_owned(), |body| body.error);
            Err(AgentError::Unauthorized { url, status, msg })
        }
        // A missing token is a 400 there.
        (400, Ok(body)) if body.body.code == ErrorCode::Unauthorized => {
            Err(AgentError::Unauthorized { url, status, msg: body.error })
        }
        (_, Ok(body)) => Err(AgentError::Refused { url, status, body: Box::new(body) }),
        (_, Err(failure)) => Err(AgentError::Garbled { url, status: Some(status), failure }),
    }
}

/// " (500)", or nothing where there was no answer.
fn with_status(status: Option<u16>) -> String {
    status.map(|status| format!(" ({status})")).unwrap_or_default()
}

fn failed(url: &str, status: Option<u16>, failure: Failure) -> AgentError {
    let url = url.to_owned();
    match failure {
        Failure::Refused | Failure::NoConnection => AgentError::Unreachable { url, failure },
        Failure::Timeout => AgentError::Timeout { url },
        Failure::Broken | Failure::Garbled => AgentError::Garbled { url, status, failure },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Reply};
    use pgfleet_api::agent::ConfigureRequest;
    use pgfleet_api::{ClusterId, Generation, Term};
    use serde_json::json;

    fn client() -> AgentClient {
        let timeouts = AgentTimeouts { status: Duration::from_millis(200), ..AgentTimeouts::default() };
        AgentClient::new(Source::Fixed("t0k3n".to_owned()), timeouts).unwrap()
    }

    fn status_json() -> serde_json::Value {
        json!({
            "start_time": "2026-01-01T00:00:00Z", "tenant": null, "timeline": null, "status": "running",
            "last_active": null, "error": null, "compute_id": "c1",
            "boot_id": "6f1f5bd8-4d5e-4c58-8c55-0f4c2b1ad111", "status_seq": 7, "term": 2, "generation": 3,
            "applied_generation": 3, "rejected_generation": null, "spec_hash": null, "pending_restart": [],
            "ignored_fields": [], "postgres": null, "error_detail": null,
        })
    }

    #[tokio::test]
    async fn configure_prefers_an_early_answer_and_carries_the_token() {
        let fake = Fake::start(vec![Reply::json(202, &status_json())]).await;
        let fence = Fence {
            cluster_id: ClusterId::generate(),
            compute_id: "c1".parse().unwrap(),
            term: Term(2),
            generation: Generation(3),
            spec_hash: "a".repeat(64).parse().unwrap(),
        };
        let spec = SpecText::from_json("{ \"cluster\" : {} }");
        let status = client().configure(&fake.url, &spec, &fence).await.unwrap();
        assert_eq!(status.generation, Some(Generation(3)));
        let seen = fake.seen().await;
        assert!(seen[0].starts_with("POST /configure HTTP/1.1"), "{}", seen[0]);
        let (_, body) = seen[0].split_once("\r\n\r\n").unwrap();
        let body: ConfigureRequest = serde_json::from_str(body).unwrap();
        assert_eq!((body.spec, body.fence), (json!({"cluster": {}}), Some(fence)));
        assert!(seen[0].contains("prefer: respond-async") && seen[0].contains("authorization: Bearer t0k3n"));
    }

    #[tokio::test]
    async fn a_stale_fence_names_the_highest() {
        let body = json!({"error": "m", "code": "stale_term", "msg": "m", "highest": {"term": 9, "generation": 4}});
        let fake = Fake::start(vec![Reply::json(409, &body)]).await;
        let error = client().status(&fake.url).await.unwrap_err();
        assert_eq!(error.highest(), Some(FenceMark { term: Term(9), generation: Generation(4) }));
        assert_eq!(error.refusal().unwrap().code, ErrorCode::StaleTerm);
    }

    #[tokio::test]
    async fn the_ways_to_fail_are_told_apart() {
        let refused = client().status(&Fake::refusing_url().await).await.unwrap_err();
        assert!(matches!(refused, AgentError::Unreachable { failure: Failure::Refused, .. }), "{refused}");
        let silent = Fake::start(vec![Reply::Silence]).await;
        assert!(matches!(client().status(&silent.url).await.unwrap_err(), AgentError::Timeout { .. }));
        let reset = Fake::start(vec![Reply::Reset]).await;
        let error = client().status(&reset.url).await.unwrap_err();
        assert!(matches!(error, AgentError::Garbled { failure: Failure::Broken, .. }), "{error:?}");
        let html = Fake::start(vec![Reply::text(200, "<html>")]).await;
        let error = client().status(&html.url).await.unwrap_err();
        assert!(matches!(error, AgentError::Garbled { failure: Failure::Garbled, .. }), "{error:?}");
        let denied = Fake::start(vec![Reply::text(401, "")]).await;
        assert!(matches!(client().status(&denied.url).await.unwrap_err(), AgentError::Unauthorized { .. }));
        let no_token = json!({"error": "m", "code": "unauthorized", "msg": "m"});
        let denied = Fake::start(vec![Reply::json(400, &no_token)]).await;
        assert!(matches!(
            client().status(&denied.url).await.unwrap_err(),
            AgentError::Unauthorized { status: 400, .. }
        ));
    }
}
