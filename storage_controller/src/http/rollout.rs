//! Routes about roll-outs.

use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use http::StatusCode;
use pgfleet_api::rollout::{
    RolloutComputes, RolloutComputesQuery, RolloutList, RolloutListQuery, RolloutStarted, RolloutView, StartRollout,
    StartRolloutQuery,
};
use pgfleet_api::{ErrorBody, RolloutId};
use pgfleet_domain::rollout::Command;
use pgfleet_runtime::http::{ApiError, JsonBody};

use super::Door;
use super::error::into_api;
use super::extract::{Asked, Named};
use crate::service::Asker;

/// Change the specs of many computes in waves. 202: it is in the database and begins. The same body under the same
/// rollout_id again starts nothing. With dry_run (200) nothing is written: who would be touched, in which wave.
#[utoipa::path(post, path = "/control/v1/rollout", tag = "roll-outs",
    params(("dry_run" = Option<bool>, Query), ("x-reason" = Option<String>, Header)), request_body = StartRollout,
    responses(
    (status = 200, body = RolloutStarted), (status = 202, body = RolloutStarted), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 409, description = "rollout_conflict", body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn start(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Asked(query): Asked<StartRolloutQuery>,
    JsonBody(body): JsonBody<StartRollout>,
) -> Result<impl IntoResponse, ApiError> {
    if query.dry_run {
        let preview = door.desk.preview_rollout(body).await.map_err(into_api)?;
        return Ok((StatusCode::OK, Json(preview)));
    }
    let started = door.desk.start_rollout(caller, body).await.map_err(into_api)?;
    Ok((StatusCode::ACCEPTED, Json(started)))
}

/// One page of roll-outs, the newest first.
#[utoipa::path(get, path = "/control/v1/rollout", tag = "roll-outs",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)), responses(
    (status = 200, body = RolloutList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn list(
    State(door): State<Door>,
    Asked(query): Asked<RolloutListQuery>,
) -> Result<Json<RolloutList>, ApiError> {
    door.desk.rollouts(query).await.map(Json).map_err(into_api)
}

/// A roll-out: its phase, counts, and the computes that need somebody.
#[utoipa::path(get, path = "/control/v1/rollout/{rollout_id}", tag = "roll-outs",
    params(("rollout_id" = RolloutId, Path)), responses(
    (status = 200, body = RolloutView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn get(State(door): State<Door>, Named(id): Named) -> Result<Json<RolloutView>, ApiError> {
    door.desk.rollout(&id).await.map(Json).map_err(into_api)
}

/// One page of its computes, in the order in which they are touched.
#[utoipa::path(get, path = "/control/v1/rollout/{rollout_id}/compute", tag = "roll-outs",
    params(("rollout_id" = RolloutId, Path), ("phase" = Option<String>, Query), ("limit" = Option<u32>, Query),
        ("cursor" = Option<u32>, Query)), responses(
    (status = 200, body = RolloutComputes), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn computes(
    State(door): State<Door>,
    Named(id): Named,
    Asked(query): Asked<RolloutComputesQuery>,
) -> Result<Json<RolloutComputes>, ApiError> {
    door.desk.rollout_computes(&id, query).await.map(Json).map_err(into_api)
}

/// Touch nothing more for now; what was touched is watched on. Idempotent.
#[utoipa::path(post, path = "/control/v1/rollout/{rollout_id}/pause", tag = "roll-outs",
    params(("rollout_id" = RolloutId, Path), ("x-reason" = Option<String>, Header)), responses(
    (status = 200, body = RolloutView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "rollout_phase", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn pause(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Named(id): Named,
) -> Result<Json<RolloutView>, ApiError> {
    door.desk.command_rollout(caller, id, Command::Pause).await.map(Json).map_err(into_api)
}

/// Go on after a pause or a halt; after a halt, what failed is given up. Idempotent.
#[utoipa::path(post, path = "/control/v1/rollout/{rollout_id}/resume", tag = "roll-outs",
    params(("rollout_id" = RolloutId, Path), ("x-reason" = Option<String>, Header)), responses(
    (status = 200, body = RolloutView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "rollout_phase", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn resume(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Named(id): Named,
) -> Result<Json<RolloutView>, ApiError> {
    door.desk.command_rollout(caller, id, Command::Resume).await.map(Json).map_err(into_api)
}

/// End it; what was touched keeps its new spec. Idempotent.
#[utoipa::path(post, path = "/control/v1/rollout/{rollout_id}/abort", tag = "roll-outs",
    params(("rollout_id" = RolloutId, Path), ("x-reason" = Option<String>, Header)), responses(
    (status = 200, body = RolloutView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "rollout_phase", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn abort(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Named(id): Named,
) -> Result<Json<RolloutView>, ApiError> {
    door.desk.command_rollout(caller, id, Command::Abort).await.map(Json).map_err(into_api)
}

/// Give every compute that still has this roll-out's spec its previous one, also when it was done. Idempotent.
#[utoipa::path(post, path = "/control/v1/rollout/{rollout_id}/rollback", tag = "roll-outs",
    params(("rollout_id" = RolloutId, Path), ("x-reason" = Option<String>, Header)), responses(
    (status = 200, body = RolloutView), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, description = "rollout_conflict", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn rollback(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Named(id): Named,
) -> Result<Json<RolloutView>, ApiError> {
    door.desk.command_rollout(caller, id, Command::Rollback).await.map(Json).map_err(into_api)
}
