//! Routes without a token: for supervisors, load balancers, Prometheus and peers.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use pgfleet_api::auth::Scope;
use pgfleet_api::controller::{ControllerStatus, Role};
use pgfleet_api::{ErrorBody, ErrorCode, InstanceId, headers};
use pgfleet_runtime::http::ApiError;

use super::Door;
use super::error::into_api;

/// The process is healthy, whatever its role.
#[utoipa::path(get, path = "/live", tag = "health", responses((status = 200)))]
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Requests sent here get served: executed by this member, or handed on to the leader it knows.
#[utoipa::path(get, path = "/ready", tag = "health", responses((status = 200), (status = 503, body = ErrorBody)))]
pub(super) async fn ready(State(door): State<Door>) -> Result<StatusCode, ApiError> {
    if door.gate.ends().ending.is_cancelled() {
        let msg = "this process ends; ask another member";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::ShuttingDown, msg).retry_after(0));
    }
    match door.desk.leading() {
        Ok(_) => Ok(StatusCode::OK),
        Err(_) if door.hands_on() => Ok(StatusCode::OK),
        Err(error) => Err(into_api(error)),
    }
}

/// 200 on the leader only, for load balancers.
#[utoipa::path(get, path = "/leader", tag = "health", responses((status = 200), (status = 503, body = ErrorBody)))]
pub(super) async fn leader(State(door): State<Door>) -> Result<StatusCode, ApiError> {
    door.desk.leading().map(|_| StatusCode::OK).map_err(into_api)
}

/// What this member is. A peer that shows a `controller_peer` token is noted as a member.
#[utoipa::path(get, path = "/status", tag = "health", responses((status = 200, body = ControllerStatus)))]
pub(super) async fn status(State(door): State<Door>, given: HeaderMap) -> Json<ControllerStatus> {
    let status = door.desk.status();
    if status.role == Role::Leader {
        note_peer(&door, &given);
    }
    Json(status)
}

fn note_peer(door: &Door, given: &HeaderMap) {
    let text = |name: &str| given.get(name)?.to_str().ok();
    let (Some(instance), Some(address)) = (text(headers::MEMBER_INSTANCE), text(headers::MEMBER_ADDRESS)) else {
        return;
    };
    let trusted = door
        .verifier
        .as_ref()
        .is_none_or(|verifier| verifier.verify(given).is_ok_and(|claims| claims.scope == Some(Scope::ControllerPeer)));
    if let (true, Ok(peer)) = (trusted, instance.parse::<InstanceId>()) {
        door.desk.leadership().heard_of(peer, address, text(headers::MEMBER_VERSION).unwrap_or_default());
    }
}

/// Prometheus' page.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, content_type = "text/plain")))]
pub(super) async fn metrics(State(door): State<Door>) -> Response {
    (door.scrape)()
}
