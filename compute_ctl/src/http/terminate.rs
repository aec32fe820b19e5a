//! `POST /terminate`: 200 when PostgreSQL is gone, 201 with the same body where it was gone before.
//!
//! With `if_idle_ms=N` only if PostgreSQL was not in use for so long, as a look at this very moment says; else 412
//! `not_idle`, and nothing was begun. With a fence in the body only if its leadership has not ended.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::StatusCode;
use pgfleet_api::ErrorCode;
use pgfleet_api::agent::{ComputeState, TerminateMode, TerminateRequest, TerminateResponse};
use pgfleet_runtime::http::{ApiError, parse_json};
use serde::Deserialize;

use super::Door;
use super::answer::refused;
use crate::lifecycle::Refusal;

/// Query of the route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    #[serde(default)]
    mode: TerminateMode,
    if_idle_ms: Option<u64>,
}

pub(super) async fn post(
    State(door): State<Door>,
    how: Result<Query<How>, QueryRejection>,
    body: Bytes,
) -> Result<(StatusCode, Json<TerminateResponse>), ApiError> {
    let Query(how) = how.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, error.body_text()).at("mode")
    })?;
    let request = if body.trim_ascii().is_empty() { TerminateRequest::default() } else { parse_json(&body)? };
    if let Some(fence) = request.fence {
        door.handle.prove(fence).await.map_err(refused)?;
    }
    if let Some(wanted_ms) = how.if_idle_ms {
        is_idle(&door, wanted_ms).await?;
    }
    let ended = door.handle.terminate(how.mode).await.map_err(refused)?;
    let status = if ended.before { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TerminateResponse { lsn: ended.lsn.map(String::from) })))
}

/// Whether nothing was active for so long. One that is ending already has nobody left to disturb.
async fn is_idle(door: &Door, wanted_ms: u64) -> Result<(), ApiError> {
    let state = door.handle.status().status;
    let ending = matches!(
        state,
        ComputeState::TerminationPendingFast | ComputeState::TerminationPendingImmediate | ComputeState::Terminated
    );
    if ending {
        return Ok(());
    }
    let reading = door.monitor.look().await.ok_or_else(|| refused(Refusal::Gone))?;
    let msg = match reading.idle_for_ms() {
        Some(idle_ms) if idle_ms >= wanted_ms => return Ok(()),
        Some(idle_ms) => format!("PostgreSQL is idle for {idle_ms} ms only"),
        None => format!("it is not known whether PostgreSQL is idle while the compute is {}", state.as_str()),
    };
    Err(ApiError::new(StatusCode::PRECONDITION_FAILED, ErrorCode::NotIdle, msg))
}
