//! Routes about what is done once with a compute, and why it is as it is.

use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use pgfleet_api::explain::ExplainView;
use pgfleet_api::policy::{ActionAccepted, TerminateQuery};
use pgfleet_api::{ComputeId, ErrorBody};
use pgfleet_runtime::http::ApiError;

use super::Door;
use super::error::into_api;
use super::extract::{Asked, Id};
use crate::service::Asker;

/// Why a compute is as it is, what happens next and when. Nobody is asked for it.
#[utoipa::path(get, path = "/control/v1/compute/{compute_id}/explain", tag = "computes",
    params(("compute_id" = ComputeId, Path)), responses(
    (status = 200, body = ExplainView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn explain(State(door): State<Door>, Id(id): Id) -> Result<Json<ExplainView>, ApiError> {
    door.desk.explain(&id).map(Json).map_err(into_api)
}

/// End a compute once. 202: it is in the database under a generation of its own and will be done. If its agent is started
/// again, it runs again; the policy `stop` keeps it stopped.
#[utoipa::path(post, path = "/control/v1/compute/{compute_id}/terminate", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("mode" = Option<String>, Query, description = "fast or immediate"),
        ("x-reason" = Option<String>, Header)), responses(
    (status = 202, body = ActionAccepted), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "no_spec, held_by_policy", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn terminate(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Id(id): Id,
    Asked(query): Asked<TerminateQuery>,
) -> Result<(StatusCode, Json<ActionAccepted>), ApiError> {
    let accepted = door.desk.terminate(caller, id, query.mode).await.map_err(into_api)?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// Have the spec applied again, also one that was given up. 202: it has a new generation with the same content.
#[utoipa::path(post, path = "/control/v1/compute/{compute_id}/refresh", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("x-reason" = Option<String>, Header)), responses(
    (status = 202, body = ActionAccepted), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "no_spec, held_by_policy", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn refresh(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Id(id): Id,
) -> Result<(StatusCode, Json<ActionAccepted>), ApiError> {
    let accepted = door.desk.refresh(caller, id).await.map_err(into_api)?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}
