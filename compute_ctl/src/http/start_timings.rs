//! `GET /metrics.json`: how long the steps of the start took.

use axum::Json;
use axum::extract::State;
use pgfleet_api::errands::StartTimings;

use super::Door;

pub(super) async fn get(State(door): State<Door>) -> Json<StartTimings> {
    Json(door.handle.timings())
}
