//! `POST /grants`: let a role have privileges. For programs on the same machine.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pgfleet_api::errands::GrantRequest;
use pgfleet_runtime::http::{ApiError, JsonBody};

use super::Door;
use super::answer::unanswered;

pub(super) async fn post(
    State(door): State<Door>,
    JsonBody(body): JsonBody<GrantRequest>,
) -> Result<(StatusCode, Json<GrantRequest>), ApiError> {
    door.must_run()?;
    door.errands.grant(&body).await.map_err(unanswered)?;
    Ok((StatusCode::CREATED, Json(body)))
}
