//! `POST /terminate`: 200 when PostgreSQL is gone, 201 with the same body where it was gone before.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::StatusCode;
use pgfleet_api::ErrorCode;
use pgfleet_api::agent::{TerminateMode, TerminateResponse};
use pgfleet_runtime::http::ApiError;
use serde::Deserialize;

use super::Door;
use super::answer::refused;

/// Query of the route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    #[serde(default)]
    mode: TerminateMode,
}

pub(super) async fn post(
    State(door): State<Door>,
    how: Result<Query<How>, QueryRejection>,
) -> Result<(StatusCode, Json<TerminateResponse>), ApiError> {
    let Query(how) = how.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, error.body_text()).at("mode")
    })?;
    let ended = door.handle.terminate(how.mode).await.map_err(refused)?;
    let status = if ended.before { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TerminateResponse { lsn: ended.lsn.map(String::from) })))
}
