//! `POST /configure`: a spec with its fence.
//!
//! `Prefer: respond-async` answers 202 when the ledger has it. Without, the call waits until it is applied (200), has failed
//! (500 `apply_failed`), or `timeout_s` is over (202). One that a later spec replaced is answered 202 as well: it was
//! accepted, and what is applied is newer.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use pgfleet_api::ErrorCode;
use pgfleet_api::agent::{ComputeCtlConfig, ConfigureRequest};
use pgfleet_runtime::auth::{Jwks, KeySets};
use pgfleet_runtime::http::{ApiError, JsonBody};
use serde::Deserialize;

use super::Door;
use super::answer::refused;
use crate::lifecycle::{Configure, Origin, Outcome, Refusal};

const DEFAULT_TIMEOUT_S: u64 = 60;
const MAX_TIMEOUT_S: u64 = 3600;

/// Query of both spec routes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    timeout_s: Option<u64>,
}

pub(super) async fn post(
    State(door): State<Door>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ConfigureRequest>,
) -> Result<Response, ApiError> {
    let limit = limit(wait, &headers)?;
    let configure = Configure { spec: body.spec, fence: body.fence, origin: Origin::Push };
    let answer = take(&door, configure, limit).await.map_err(below_spec)?;
    if let Some(config) = body.compute_ctl_config {
        rotate_keys(&door, &config);
    }
    Ok(answer)
}

/// How long the caller wants to wait.
pub(super) fn limit(wait: Result<Query<Wait>, QueryRejection>, headers: &HeaderMap) -> Result<Duration, ApiError> {
    let Query(wait) = wait.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, error.body_text()).at("timeout_s")
    })?;
    let prefers = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let respond_async =
        prefers.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("respond-async"));
    let seconds = if respond_async { 0 } else { wait.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S).min(MAX_TIMEOUT_S) };
    Ok(Duration::from_secs(seconds))
}

/// Hands the spec in and answers for it.
pub(super) async fn take(door: &Door, configure: Configure, limit: Duration) -> Result<Response, ApiError> {
    let admitted = door.handle.configure(configure).await.map_err(refused)?;
    let outcome = match admitted.outcome {
        None => Some(Outcome::Applied),
        Some(outcome) => tokio::time::timeout(limit, outcome).await.ok().map(|sent| sent.unwrap_or(Outcome::Ended)),
    };
    let status = door.handle.status();
    match outcome {
        Some(Outcome::Applied) => Ok(Json(status).into_response()),
        None | Some(Outcome::Superseded) => Ok((StatusCode::ACCEPTED, Json(status)).into_response()),
        Some(Outcome::Ended) => Err(refused(Refusal::Ending(status.status))),
        Some(Outcome::Failed) => {
            let why = status.error.unwrap_or_else(|| "see the status".to_owned());
            let msg = format!("compute configuration failed: {why}");
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::ApplyFailed, msg))
        }
    }
}

/// The path of a field counts from the body, and here the spec is one of its fields.
pub(super) fn below_spec(mut error: ApiError) -> ApiError {
    if let Some(path) = &mut error.body.path {
        *path = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
    }
    error
}

/// Keys that came with a configuration are replaced by those of a later one; a key file has the last word.
fn rotate_keys(door: &Door, config: &ComputeCtlConfig) {
    let Some(verifier) = door.verifier.as_ref().filter(|_| door.keys_from_config) else { return };
    match Jwks::from_value(&config.jwks, KeySets::Ed25519OrRs256) {
        Ok(keys) => verifier.replace(keys),
        Err(error) => tracing::warn!("{}; the keys in use stay", pgfleet_runtime::exit::chain(&error)),
    }
}
