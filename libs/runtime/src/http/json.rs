//! JSON bodies: read whatever the content type says, and refused with position or path. What is too large, too slow or too
//! deep is refused as well, before it costs anything.

use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use pgfleet_api::ErrorCode;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use super::ApiError;

/// A JSON body. The content type is not looked at: `curl -d` sends forms.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        read_body(request).await.and_then(|bytes| parse_json(&bytes).map(Self))
    }
}

/// Largest body of a route, in the extensions of its requests; [`super::finish`] puts it there.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimit(pub(super) usize);

/// The limit of a route outside [`super::finish`].
const DEFAULT_LIMIT: usize = 2 * 1024 * 1024;
/// A body must be complete after this time: who sends it byte by byte holds memory and a place.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// What of a refused body is still taken and dropped. A client that is in the middle of sending reads the answer only then:
/// a connection that is closed with bytes unread is reset, and the answer is lost with it.
const DROPPED_BYTES: usize = 64 * 1024 * 1024;
const DROPPED_FOR: Duration = Duration::from_secs(2);
/// A client that sends nothing for this long waits for the answer.
const SILENCE: Duration = Duration::from_millis(50);

/// Reads the whole body, up to the limit that [`super::finish`] sets.
///
/// # Errors
/// 413 `payload_too_large`, without waiting for the body where the head says how long it is; 408 `timeout` if it does not
/// come in time; 400 `invalid_request` if the client stops in the middle.
pub async fn read_body(request: Request) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    read_body_of(&parts, body).await
}

/// As [`read_body`], for whoever goes on with the head.
///
/// # Errors
/// As [`read_body`].
pub async fn read_body_of(head: &Parts, body: Body) -> Result<Bytes, ApiError> {
    read_within(READ_LIMIT, head, body).await
}

async fn read_within(time: Duration, head: &Parts, body: Body) -> Result<Bytes, ApiError> {
    tokio::time::timeout(time, collect(head, body)).await.unwrap_or_else(|_| {
        let msg = format!("the body was not complete after {} s", time.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Timeout, msg).not_executed())
    })
}

async fn collect(head: &Parts, body: Body) -> Result<Bytes, ApiError> {
    let limit = head.extensions.get::<BodyLimit>().map_or(DEFAULT_LIMIT, |limit| limit.0);
    let too_long = length(&head.headers).is_some_and(|length| length > limit);
    // Asking for the body would tell such a client to send it.
    let asks_first = head.headers.contains_key(header::EXPECT);
    let mut frames = body.into_data_stream();
    if too_long {
        if !asks_first {
            drop_rest(&mut frames).await;
        }
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| {
            ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, "the body could not be read")
        })?;
        if whole.len() + frame.len() > limit {
            drop(whole);
            drop_rest(&mut frames).await;
            return Err(too_large());
        }
        whole.extend_from_slice(&frame);
    }
    Ok(whole.freeze())
}

async fn drop_rest(frames: &mut BodyDataStream) {
    let begun = Instant::now();
    let mut dropped = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, frames.next()).await {
        dropped += frame.len();
        if dropped > DROPPED_BYTES || begun.elapsed() > DROPPED_FOR {
            return;
        }
    }
}

/// What the head says; a head without it has a body in chunks, which is counted as it comes.
fn length(head: &HeaderMap) -> Option<usize> {
    head.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large() -> ApiError {
    let msg = "the body is over the limit of this route";
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::PayloadTooLarge, msg)
}

/// Reads JSON. What is no JSON at all is told apart from JSON that does not fit.
///
/// # Errors
/// 400 `not_json` with line and column; 422 `invalid_body` with the field's path.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // What is good is read once. Only to say what is wrong, and where, costs more.
    serde_json::from_slice(bytes).or_else(|_| explained(bytes))
}

/// Reads JSON that a first reading refused, for a better word about it.
fn explained<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // The whole text first: a misfit near its beginning must not hide that it is broken further on.
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::NotJson, format!("the body is not JSON: {error}"))
    })?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // Nested deeper than any document of ours; the path of it would be as deep.
        if matches!(error.classify(), Category::Syntax | Category::Eof | Category::Io) {
            let said = format!("the body is not JSON that can be read: {error}");
            return ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::NotJson, said);
        }
        let said = format!("the body does not fit: {error}");
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, said).at(path)
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        list: Vec<Item>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Item {
        n: u8,
    }

    #[test]
    fn not_json_has_a_position() {
        for (text, place) in [
            ("", "line 1 column 0"),
            ("{\n \"list\": [\n", "line 3 column 0"),
            ("{\"list\": \"x\"} }", "line 1 column 15"),
            ("{\"list\": 7, oops}", "line 1 column 13"),
        ] {
            let error = parse_json::<Body>(text.as_bytes()).unwrap_err();
            assert_eq!((error.status, error.body.code), (StatusCode::BAD_REQUEST, ErrorCode::NotJson), "{text}");
            assert!(error.body.msg.contains(place), "{}", error.body.msg);
        }
    }

    #[test]
    fn depth_has_an_end() {
        for levels in [200, 100_000] {
            let text = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
            let error = parse_json::<serde_json::Value>(text.as_bytes()).unwrap_err();
            assert_eq!((error.status, error.body.code), (StatusCode::BAD_REQUEST, ErrorCode::NotJson));
            assert_eq!(error.body.path, None);
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let stream = futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>();
        let request = Request::new(axum::body::Body::from_stream(stream));
        let (head, body) = request.into_parts();
        let error = read_within(Duration::from_millis(20), &head, body).await.unwrap_err();
        assert_eq!((error.status, error.body.code), (StatusCode::REQUEST_TIMEOUT, ErrorCode::Timeout));
    }

    #[tokio::test]
    async fn what_says_that_it_is_too_large_is_not_waited_for() {
        let stream = futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>();
        let mut request = Request::new(axum::body::Body::from_stream(stream));
        request.headers_mut().insert(header::CONTENT_LENGTH, http::HeaderValue::from_static("65"));
        request.extensions_mut().insert(BodyLimit(64));
        assert_eq!(read_body(request).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        for pieces in [vec![], vec!["one"], vec!["", "one"], vec!["one", "", "two", "three"]] {
            let frames: Vec<_> = pieces.iter().map(|piece| Ok::<_, std::convert::Infallible>(*piece)).collect();
            let mut request = Request::new(axum::body::Body::from_stream(futures_util::stream::iter(frames)));
            request.extensions_mut().insert(BodyLimit(11));
            assert_eq!(read_body(request).await.unwrap(), pieces.concat());
        }
        let frames = ["one", "two", "three!"].map(Ok::<_, std::convert::Infallible>);
        let mut request = Request::new(axum::body::Body::from_stream(futures_util::stream::iter(frames)));
        request.extensions_mut().insert(BodyLimit(11));
        assert_eq!(read_body(request).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn what_does_not_fit_has_a_path() {
        for (text, path) in [
            ("{\"list\": [{\"n\": 1}, {\"n\": \"x\"}]}", "list[1].n"),
            ("{\"list\": [{\"n\": 300}]}", "list[0].n"),
            ("{\"list\": [], \"more\": 1}", "more"),
            ("{\"list\": [{}]}", "list[0]"),
        ] {
            let error = parse_json::<Body>(text.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
            assert_eq!(error.body.path.as_deref(), Some(path), "{}", error.body.msg);
        }
        assert_eq!(parse_json::<Body>(b"{\"list\": [{\"n\": 3}]}").unwrap(), Body { list: vec![Item { n: 3 }] });
    }
}
