//! The agent's pull, under the path that the reference's agents ask.

use axum::Json;
use axum::extract::State;
use pgfleet_api::agent::PullResponse;
use pgfleet_api::{ComputeId, ErrorBody};
use pgfleet_runtime::http::ApiError;

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
