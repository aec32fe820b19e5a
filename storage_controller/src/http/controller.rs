//! Routes about the controllers.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, header};
use pgfleet_api::ErrorBody;
use pgfleet_api::controller::{
    FollowLine, LeaderView, MemberList, StepDownRequest, StepDownResponse, TakeOverRequest, TakeOverResponse, TermList,
};
use pgfleet_runtime::http::{ApiError, parse_json};
use serde::Deserialize;

use super::Door;
use super::error::into_api;
use super::extract::Asked;
use super::health::peer_of;
use crate::service::pieces;

/// Whether the answer of a step-down brings the observed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SnapshotWanted {
    /// Of every compute.
    #[default]
    All,
    /// Of none: who asks has it already.
    None,
}

/// Query of a step-down.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct StepDownQuery {
    /// `none`: the answer brings no observed state.
    #[serde(default)]
    snapshot: SnapshotWanted,
}

/// Give up leadership. With a body: only if this is the leader it names; without one: if it leads at all. Repeatable. If
/// nobody claims within --step-down-revert, this member leads again.
#[utoipa::path(put, path = "/control/v1/step_down", tag = "controllers", params(StepDownQuery),
    request_body = Option<StepDownRequest>, responses(
    (status = 200, body = StepDownResponse),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 409, description = "not_that_leader, migration_failed_before", body = ErrorBody),
    (status = 422, body = ErrorBody)))]
pub(super) async fn step_down(
    State(door): State<Door>,
    Asked(query): Asked<StepDownQuery>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request = if body.is_empty() { None } else { Some(parse_json::<StepDownRequest>(&body)?) };
    let answer = door.desk.step_down(request).await.map_err(into_api)?;
    if query.snapshot == SnapshotWanted::None {
        return Ok(Json(answer.head()).into_response());
    }
    let body = Body::from_stream(pieces(answer));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Take over: ask the leader to step down if there is one, and lead. Answers when this member leads and serves; one that
/// leads already says so at once.
#[utoipa::path(post, path = "/control/v1/take_over", tag = "controllers", request_body = Option<TakeOverRequest>, responses(
    (status = 200, body = TakeOverResponse),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 409, description = "cannot_lead, migration_failed_before, not_that_leader", body = ErrorBody),
    (status = 422, body = ErrorBody),
    (status = 503, description = "it did not work out in time; the leader leads on", body = ErrorBody)))]
pub(super) async fn take_over(State(door): State<Door>, body: Bytes) -> Result<Json<TakeOverResponse>, ApiError> {
    let request = if body.is_empty() { TakeOverRequest::default() } else { parse_json::<TakeOverRequest>(&body)? };
    door.desk.take_over(request).await.map(Json).map_err(into_api)
}

/// Where this member stands, as one line of JSON at once, at each change, and as a sign of life. A member that reads it is
/// registered at the one it follows. The end of the stream proves nothing.
#[utoipa::path(get, path = "/control/v1/follow", tag = "controllers", responses(
    (status = 200, body = FollowLine, content_type = "application/x-ndjson"),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub(super) async fn follow(State(door): State<Door>, given: HeaderMap) -> Response {
    let lines = door.desk.follow(peer_of(&given));
    let text = stream::try_unfold(lines, |mut lines| async move {
        let Some(line) = lines.next().await else { return Ok::<_, serde_json::Error>(None) };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        Ok(Some((text, lines)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(text)).into_response()
}

/// Query of the history.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// How many terms, the newest first; default 20, at most 1000.
    limit: Option<u32>,
}

/// The terms there were, the newest first.
#[utoipa::path(get, path = "/control/v1/leader/history", tag = "controllers", params(HistoryQuery), responses(
    (status = 200, body = TermList), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn leader_history(
    State(door): State<Door>,
    Asked(query): Asked<HistoryQuery>,
) -> Result<Json<TermList>, ApiError> {
    door.desk.leader_history(query.limit).await.map(Json).map_err(into_api)
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
