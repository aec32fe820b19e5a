//! `GET /status`: 200 in every state.

use axum::Json;
use axum::extract::State;
use pgfleet_api::agent::AgentStatus;

use super::Door;

pub(super) async fn get(State(door): State<Door>) -> Json<AgentStatus> {
    let mut status = door.handle.status();
    door.monitor.show(&mut status);
    Json(status)
}
