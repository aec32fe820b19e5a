//! Routes without a token: for supervisors, load balancers, Prometheus and peers.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use pgfleet_api::auth::Scope;
use pgfleet_api::controller::ControllerStatus;
use pgfleet_api::{ErrorBody, headers};
use pgfleet_runtime::http::ApiError;

use super::Door;
use super::error::into_api;
use crate::service::Peer;

/// The process is healthy, whatever its role.
#[utoipa::path(get, path = "/live", tag = "health", responses((status = 200)))]
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Requests sent here get served.
#[utoipa::path(get, path = "/ready", tag = "health", responses((status = 200), (status = 503, body = ErrorBody)))]
pub(super) async fn ready(State(door): State<Door>) -> Result<StatusCode, ApiError> {
    door.desk.leading().map(|_| StatusCode::OK).map_err(into_api)
}

/// 200 on the leader only, for load balancers.
#[utoipa::path(get, path = "/leader", tag = "health", responses((status = 200), (status = 503, body = ErrorBody)))]
pub(super) async fn leader(State(door): State<Door>) -> Result<StatusCode, ApiError> {
    door.desk.leading().map(|_| StatusCode::OK).map_err(into_api)
}

/// What this member is. A peer that shows a `controller_peer` token is noted as a member.
#[utoipa::path(get, path = "/status", tag = "health", responses((status = 200, body = ControllerStatus)))]
pub(super) async fn status(State(door): State<Door>, given: HeaderMap) -> Json<ControllerStatus> {
    if let Some(peer) = peer_of(&given).filter(|_| is_peer(&door, &given)) {
        door.desk.leadership().heard_of(peer);
    }
    Json(door.desk.status())
}

/// Whom the headers name as the asking member.
pub(super) fn peer_of(given: &HeaderMap) -> Option<Peer> {
    let text = |name: &str| given.get(name)?.to_str().ok();
    let change_seq = text(headers::MEMBER_CHANGE_SEQ).and_then(|number| number.parse().ok());
    Some(Peer {
        instance_id: text(headers::MEMBER_INSTANCE)?.parse().ok()?,
        address: text(headers::MEMBER_ADDRESS)?.to_owned(),
        version: text(headers::MEMBER_VERSION).unwrap_or_default().to_owned(),
        // A member that follows nothing has reached nothing.
        change_seq: change_seq.filter(|number| *number > 0),
    })
}

/// The route is open, so the token is looked at here.
fn is_peer(door: &Door, given: &HeaderMap) -> bool {
    door.verifier
        .as_ref()
        .is_none_or(|verifier| verifier.verify(given).is_ok_and(|claims| claims.scope == Some(Scope::ControllerPeer)))
}

/// Prometheus' page.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, content_type = "text/plain")))]
pub(super) async fn metrics(State(door): State<Door>) -> Response {
    (door.scrape)()
}
