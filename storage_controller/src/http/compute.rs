//! Routes about computes.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode};
use pgfleet_api::compute::{
    ComputeList, ComputeView, HistoryPage, HistoryQuery, ListQuery, RegisterCompute, SpecAccepted, SpecView, WaitQuery,
    WaitResult,
};
use pgfleet_api::policy::{ActionAccepted, DeleteQuery, PutPolicy};
use pgfleet_api::{ComputeId, ErrorBody};
use pgfleet_runtime::http::{ApiError, JsonBody};
use serde_json::Value;

use super::Door;
use super::error::into_api;
use super::extract::{Asked, Id, etag, if_match};
use crate::service::Asker;

/// Register a compute or change it. Idempotent.
#[utoipa::path(put, path = "/control/v1/compute/{compute_id}", tag = "computes",
    params(("compute_id" = ComputeId, Path)), request_body = RegisterCompute, responses(
    (status = 200, body = ComputeView), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub(super) async fn register(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Id(id): Id,
    JsonBody(body): JsonBody<RegisterCompute>,
) -> Result<Json<ComputeView>, ApiError> {
    door.desk.register(caller, id, body).await.map(Json).map_err(into_api)
}

/// A new spec. 202: it is in the database and will be pushed. The same content keeps its generation.
#[utoipa::path(put, path = "/control/v1/compute/{compute_id}/spec", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("If-Match" = Option<String>, Header)), request_body = Object, responses(
    (status = 202, body = SpecAccepted), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 412, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn put_spec(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Id(id): Id,
    headers: HeaderMap,
    JsonBody(spec): JsonBody<Value>,
) -> Result<impl IntoResponse, ApiError> {
    let expected = if_match(&headers)?;
    let accepted = door.desk.put_spec(caller, id, spec, expected).await.map_err(into_api)?;
    Ok((StatusCode::ACCEPTED, etag(accepted.generation), Json(accepted)))
}

/// Change how far the leader may go with a compute by itself; a field that is left out stays as it is. Idempotent.
#[utoipa::path(put, path = "/control/v1/compute/{compute_id}/policy", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("x-reason" = Option<String>, Header)), request_body = PutPolicy, responses(
    (status = 200, body = ComputeView), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn put_policy(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Id(id): Id,
    JsonBody(body): JsonBody<PutPolicy>,
) -> Result<Json<ComputeView>, ApiError> {
    door.desk.put_policy(caller, id, body).await.map(Json).map_err(into_api)
}

/// Intent beside observation.
#[utoipa::path(get, path = "/control/v1/compute/{compute_id}", tag = "computes",
    params(("compute_id" = ComputeId, Path)), responses(
    (status = 200, body = ComputeView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn get(State(door): State<Door>, Id(id): Id) -> Result<Json<ComputeView>, ApiError> {
    door.desk.get(&id).map(Json).map_err(into_api)
}

/// The current spec.
#[utoipa::path(get, path = "/control/v1/compute/{compute_id}/spec", tag = "computes",
    params(("compute_id" = ComputeId, Path)), responses(
    (status = 200, body = SpecView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "no_spec", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn get_spec(State(door): State<Door>, Id(id): Id) -> Result<impl IntoResponse, ApiError> {
    let spec = door.desk.get_spec(&id).await.map_err(into_api)?;
    Ok((etag(spec.generation), Json(spec)))
}

/// Wait until a generation is applied, rejected, failed, or time is up.
#[utoipa::path(get, path = "/control/v1/compute/{compute_id}/wait", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("generation" = Option<i64>, Query), ("timeout_s" = Option<u64>, Query)),
    responses(
    (status = 200, body = WaitResult), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "no_spec", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn wait(
    State(door): State<Door>,
    Id(id): Id,
    Asked(query): Asked<WaitQuery>,
) -> Result<Json<WaitResult>, ApiError> {
    door.desk.wait(id, query).await.map(Json).map_err(into_api)
}

/// What the journal has of a compute, the newest line first. A deleted compute keeps its lines.
#[utoipa::path(get, path = "/control/v1/compute/{compute_id}/history", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<i64>, Query),
        ("since" = Option<String>, Query), ("until" = Option<String>, Query), ("kind" = Option<String>, Query)), responses(
    (status = 200, body = HistoryPage), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn history(
    State(door): State<Door>,
    Id(id): Id,
    Asked(query): Asked<HistoryQuery>,
) -> Result<Json<HistoryPage>, ApiError> {
    door.desk.history(id, query).await.map(Json).map_err(into_api)
}

/// One page of computes, ordered by id.
#[utoipa::path(get, path = "/control/v1/compute", tag = "computes",
    params(("state" = Option<String>, Query), ("label" = Option<String>, Query), ("lagging" = Option<bool>, Query),
        ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)), responses(
    (status = 200, body = ComputeList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn list(
    State(door): State<Door>,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<ComputeList>, ApiError> {
    door.desk.list(query).await.map(Json).map_err(into_api)
}

/// Forget a compute. 204: it is forgotten, and what runs is left running. With `terminate` 202: it will be ended, and then
/// forgotten.
#[utoipa::path(delete, path = "/control/v1/compute/{compute_id}", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("terminate" = Option<bool>, Query), ("x-reason" = Option<String>, Header)),
    responses(
    (status = 202, body = ActionAccepted), (status = 204),
    (status = 409, description = "with terminate: no_spec, held_by_policy", body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn delete(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Id(id): Id,
    Asked(query): Asked<DeleteQuery>,
) -> Result<Response, ApiError> {
    if query.terminate {
        let accepted = door.desk.end_and_delete(caller, id).await.map_err(into_api)?;
        return Ok((StatusCode::ACCEPTED, Json(accepted)).into_response());
    }
    door.desk.delete(caller, id).await.map_err(into_api)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// End the quarantine of a compute. Idempotent.
#[utoipa::path(post, path = "/control/v1/compute/{compute_id}/unquarantine", tag = "computes",
    params(("compute_id" = ComputeId, Path), ("x-reason" = Option<String>, Header)), responses(
    (status = 200, body = ComputeView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn unquarantine(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Id(id): Id,
) -> Result<Json<ComputeView>, ApiError> {
    door.desk.unquarantine(caller, id).await.map(Json).map_err(into_api)
}
