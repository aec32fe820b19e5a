//! Extractors that refuse in our own words.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Query};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use pgfleet_api::{ComputeId, ErrorCode, Generation, RolloutId};
use pgfleet_runtime::http::ApiError;
use serde::de::DeserializeOwned;

/// The compute a path names.
pub(super) struct Id(pub(super) ComputeId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let refuse = |error| no_name(&error, "compute_id");
        Path::<ComputeId>::from_request_parts(parts, state).await.map(|Path(id)| Self(id)).map_err(refuse)
    }
}

/// The roll-out a path names.
pub(super) struct Named(pub(super) RolloutId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let refuse = |error| no_name(&error, "rollout_id");
        Path::<RolloutId>::from_request_parts(parts, state).await.map(|Path(id)| Self(id)).map_err(refuse)
    }
}

fn no_name(error: &PathRejection, path: &str) -> ApiError {
    let said = error.body_text();
    let said = said.rsplit(": ").next().unwrap_or(&said).to_owned();
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidRequest, said).at(path)
}

/// The query, as a value.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(|error| {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidRequest, error.body_text()).at("query")
        })
    }
}

/// `If-Match: "<generation>"`; quotes and weakness are tolerated.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<Generation>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let refuse = || {
        let msg = "If-Match names one generation, as the ETag does";
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidRequest, msg).at("if-match")
    };
    let text = value.to_str().map_err(|_| refuse())?.trim();
    let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    text.parse().map(|generation| Some(Generation(generation))).map_err(|_| refuse())
}

/// The `ETag` of a generation.
pub(super) fn etag(generation: Generation) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, format!("\"{generation}\""))]
}
