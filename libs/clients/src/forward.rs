//! Hands a request on to another member as it came, and its answer back as it comes.
//!
//! Who calls it: the controller's door. What it calls: reqwest, with kept connections. Invariants: a request is sent once;
//! what came of it is one of three things, and "not executed" is said only when that is certain: the connection could not
//! be made, or the other member says so itself. A kept connection that its other end closed before a byte of the request
//! was written is replaced below this, by hyper, and is no failure. Nothing here waits for the answer with a deadline: a
//! `wait` may take minutes, and whoever has waited long enough drops the future.

use std::time::Duration;

use pgfleet_api::controller::LeaderRef;
use pgfleet_api::{ErrorBody, ErrorCode, headers};
use reqwest::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use reqwest::{Body, Method, StatusCode};

use crate::transport::{Failure, SetUpError, Wire, join, read_body};

/// A member that does not answer the handshake in this time is as good as away; the request is held and tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// Kept connections to one member.
const IDLE_PER_HOST: usize = 256;
/// A kept connection without a request is closed after this time, so that a member that ends is not waited for.
const IDLE: Duration = Duration::from_secs(2);
/// An answer that says its length and is not longer is read to its end before it is passed on: a member that dies in
/// the middle of it has then given none.
const WHOLE_BYTES: u64 = 4 << 20;
/// An error body is below a kilobyte.
const ERROR_LIMIT: usize = 64 << 10;

/// Headers that belong to one connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("te"),
    HeaderName::from_static("trailer"),
    HeaderName::from_static("upgrade"),
];

/// A request to be handed on.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Path and query, as they came.
    pub path: &'a str,
    /// Its headers, as they came.
    pub headers: &'a HeaderMap,
}

/// An answer to be passed on.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those of the connection.
    pub headers: HeaderMap,
    /// Its body, whole or still streaming.
    pub body: Body,
}

/// What came of a request that was handed on.
#[derive(Debug)]
pub enum Outcome {
    /// It was answered; a refusal is an answer, too.
    Answered(Box<Answer>),
    /// It was certainly not executed.
    NotExecuted {
        /// Why, in words.
        reason: String,
        /// What the other member said, if it was reached.
        said: Option<Box<ErrorBody>>,
    },
    /// It may have been executed.
    Unknown(Failure),
}

impl Outcome {
    /// The leader that a member named that did not execute the request.
    #[must_use]
    pub fn leader(&self) -> Option<&LeaderRef> {
        match self {
            Self::NotExecuted { said, .. } => said.as_ref()?.leader.as_ref(),
            Self::Answered(_) | Self::Unknown(_) => None,
        }
    }
}

/// Hands requests on. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Forwarder {
    http: reqwest::Client,
}

impl Forwarder {
    /// A forwarder without connections yet.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new() -> Result<Self, SetUpError> {
        let wire = Wire { connect_timeout: CONNECT_TIMEOUT, idle_per_host: IDLE_PER_HOST };
        Ok(Self { http: wire.client_that_idles(IDLE)? })
    }

    /// Sends a request once to the member at `base`, marked as handed on.
    pub async fn send(&self, base: &str, ask: Ask<'_>, body: impl Into<Body>) -> Outcome {
        let mut given = ask.headers.clone();
        strip(&mut given);
        // These belong to the new connection, and the body is here already.
        for name in [HOST, CONTENT_LENGTH, EXPECT] {
            given.remove(name);
        }
        given.insert(HeaderName::from_static(headers::HOP), HeaderValue::from_static("1"));
        let request = self.http.request(ask.method.clone(), join(base, ask.path)).headers(given).body(body);
        match request.send().await {
            Ok(response) => judge(response).await,
            Err(error) => match Failure::from(&error) {
                // A handshake that was not answered; nothing was sent.
                failure if failure.is_unexecuted() || error.is_connect() => {
                    Outcome::NotExecuted { reason: failure.as_str().to_owned(), said: None }
                }
                failure => Outcome::Unknown(failure),
            },
        }
    }
}

async fn judge(response: reqwest::Response) -> Outcome {
    let status = response.status();
    let mut headers = response.headers().clone();
    strip(&mut headers);
    let disclaimed = headers.get(headers::EXECUTED).is_some_and(|value| value == "no");
    if status == StatusCode::SERVICE_UNAVAILABLE && disclaimed {
        return disclaimed_by(status, headers, response).await;
    }
    let body = match response.content_length() {
        Some(length) if length <= WHOLE_BYTES => match response.bytes().await {
            Ok(whole) => Body::from(whole),
            Err(error) => return Outcome::Unknown(Failure::from(&error)),
        },
        Some(_) | None => Body::from(response),
    };
    Outcome::Answered(Box::new(Answer { status, headers, body }))
}

/// "Not executed" sends the request on, except where the leader itself says it: its database is away, and there is nobody
/// else to ask.
async fn disclaimed_by(status: StatusCode, headers: HeaderMap, response: reqwest::Response) -> Outcome {
    // Without a readable body the header is still the member's word.
    let text = read_body(response, ERROR_LIMIT).await.unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&text) {
        Ok(said) if said.code == ErrorCode::DatabaseAway => {
            Outcome::Answered(Box::new(Answer { status, headers, body: Body::from(text) }))
        }
        Ok(said) => Outcome::NotExecuted { reason: said.msg.clone(), said: Some(Box::new(said)) },
        Err(_) => Outcome::NotExecuted { reason: "it did not execute the request".to_owned(), said: None },
    }
}

/// Takes out what belongs to the connection, and what `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Reply};
    use serde_json::json;

    fn given() -> HeaderMap {
        let mut given = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer t"),
            ("x-reason", "why"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("host", "elsewhere"),
            ("content-length", "99"),
            ("if-match", "\"3\""),
        ] {
            given.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        given
    }

    async fn put(url: &str) -> Outcome {
        let given = given();
        let ask = Ask { method: &Method::PUT, path: "/a?b=c", headers: &given };
        Forwarder::new().unwrap().send(url, ask, "{}").await
    }

    #[tokio::test]
    async fn a_request_is_handed_on_as_it_came_but_for_the_connection() {
        let fake = Fake::start(vec![Reply::text(202, "done").with("etag", "\"4\"").with("keep-alive", "x")]).await;
        let Outcome::Answered(answer) = put(&fake.url).await else { panic!("no answer") };
        assert_eq!((answer.status.as_u16(), &answer.headers["etag"]), (202, &HeaderValue::from_static("\"4\"")));
        assert_eq!(answer.body.as_bytes(), Some(&b"done"[..]), "read to its end");
        for name in ["connection", "keep-alive"] {
            assert!(!answer.headers.contains_key(name), "{name}");
        }
        let seen = fake.seen().await.remove(0);
        assert!(seen.starts_with("PUT /a?b=c HTTP/1.1\r\n") && seen.ends_with("\r\n\r\n{}"), "{seen}");
        for line in
            ["authorization: Bearer t", "x-reason: why", "if-match: \"3\"", "x-pgfleet-hop: 1", "content-length: 2"]
        {
            assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line} in {seen}");
        }
        assert!(!seen.contains("x-mine") && !seen.contains("elsewhere"), "{seen}");
    }

    #[tokio::test]
    async fn only_what_is_certain_counts_as_not_executed() {
        let id = "6f1f5bd8-4d5e-4c58-8c55-0f4c2b1ad111";
        let leader = json!({"instance_id": id, "term": 2, "address": "http://l"});
        let no = |body: serde_json::Value| Reply::json(503, &body).with("x-pgfleet-executed", "no");
        let stepped_down = no(json!({"code": "stepped_down", "msg": "m", "leader": leader}));
        let away = no(json!({"code": "database_away", "msg": "m"}));
        let unmarked = Reply::json(503, &json!({"code": "no_leader", "msg": "m"}));
        let fake = Fake::start(vec![stepped_down]).await;
        let outcome = put(&fake.url).await;
        assert!(matches!(outcome, Outcome::NotExecuted { .. }), "{outcome:?}");
        assert_eq!(outcome.leader().map(|leader| leader.term.get()), Some(2));
        let outcome = put(&Fake::refusing_url().await).await;
        assert!(matches!(outcome, Outcome::NotExecuted { said: None, .. }), "{outcome:?}");
        for reply in [away, unmarked] {
            let fake = Fake::start(vec![reply]).await;
            let outcome = put(&fake.url).await;
            assert!(matches!(&outcome, Outcome::Answered(answer) if answer.status == 503), "{outcome:?}");
        }
        let fake = Fake::start(vec![Reply::Reset]).await;
        let outcome = put(&fake.url).await;
        assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
        assert_eq!(fake.seen().await.len(), 1, "sent once");
    }
}
