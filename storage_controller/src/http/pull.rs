//! What agents ask: the pull, under the path of the reference's agents, and the report of a change.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pgfleet_api::agent::{PullResponse, ReportAccepted, TransitionReport};
use pgfleet_api::{ComputeId, ErrorBody};
use pgfleet_runtime::http::{ApiError, JsonBody};

use super::Door;
use super::error::into_api;
use super::extract::Id;

/// The spec a compute should have, with its fence. `empty`: nothing was asked for, and an agent that was told so at a refresh
/// ends. Scope `compute` is good for its own compute only.
#[utoipa::path(get, path = "/compute/api/v2/computes/{compute_id}/spec", tag = "computes",
    params(("compute_id" = ComputeId, Path)), responses(
    (status = 200, body = PullResponse), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn spec(State(door): State<Door>, Id(id): Id) -> Result<Json<PullResponse>, ApiError> {
    door.desk.pull(&id).await.map(Json).map_err(into_api)
}

/// An agent says that its status has changed. It is a hint: the leader asks the agent itself, and believes that.
#[utoipa::path(post, path = "/control/v1/compute/{compute_id}/report", tag = "computes",
    params(("compute_id" = ComputeId, Path)), request_body = TransitionReport, responses(
    (status = 202, body = ReportAccepted), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn report(
    State(door): State<Door>,
    Id(id): Id,
    JsonBody(report): JsonBody<TransitionReport>,
) -> Result<(StatusCode, Json<ReportAccepted>), ApiError> {
    let accepted = door.desk.report(id, &report).map_err(into_api)?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}
