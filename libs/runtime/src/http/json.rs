//! JSON bodies: read whatever the content type says, and refused with position or path.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::StatusCode;
use pgfleet_api::ErrorCode;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::ApiError;

/// A JSON body. The content type is not looked at: `curl -d` sends forms.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        read_body(request, state).await.and_then(|bytes| parse_json(&bytes).map(Self))
    }
}

/// Reads the whole body, up to the limit that [`super::finish`] sets.
///
/// # Errors
/// 413 `payload_too_large`; 400 `invalid_request` if the client stops in the middle.
pub async fn read_body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::PayloadTooLarge,
            "the body is over the limit of this route",
        ),
        _ => ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, "the body could not be read"),
    })
}

/// Reads JSON. What is no JSON at all is told apart from JSON that does not fit.
///
/// # Errors
/// 400 `not_json` with line and column; 422 `invalid_body` with the field's path.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // The whole text first: a misfit near its beginning must not hide that it is broken further on.
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::NotJson, format!("the body is not JSON: {error}"))
    })?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let said = format!("the body does not fit: {}", error.into_inner());
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
