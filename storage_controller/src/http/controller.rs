//! Routes about the controllers.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use pgfleet_api::ErrorBody;
use pgfleet_api::controller::{LeaderView, MemberList, StepDownRequest, StepDownResponse};
use pgfleet_runtime::http::{ApiError, parse_json};

use super::Door;
use super::error::into_api;

/// Give up leadership. With a body: only if this is the leader it names; without one: if it leads at all. Repeatable.
#[utoipa::path(put, path = "/control/v1/step_down", tag = "controllers", request_body = Option<StepDownRequest>, responses(
    (status = 200, body = StepDownResponse),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 409, description = "not_that_leader", body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn step_down(State(door): State<Door>, body: Bytes) -> Result<Json<StepDownResponse>, ApiError> {
    let request = if body.is_empty() { None } else { Some(parse_json::<StepDownRequest>(&body)?) };
    let answer = door.desk.step_down(request).await.map_err(into_api)?;
    Ok(Json(StepDownResponse::clone(&answer)))
}

/// The leader row.
#[utoipa::path(get, path = "/control/v1/leader", tag = "controllers", responses(
    (status = 200, body = LeaderView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub(super) async fn leader_row(State(door): State<Door>) -> Result<Json<LeaderView>, ApiError> {
    door.desk.leader().await.map(Json).map_err(into_api)
}

/// The members the leader knows of.
#[utoipa::path(get, path = "/control/v1/controllers", tag = "controllers", responses(
    (status = 200, body = MemberList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub(super) async fn controllers(State(door): State<Door>) -> Result<Json<MemberList>, ApiError> {
    door.desk.controllers().map(Json).map_err(into_api)
}
