//! `GET /metrics`: open on both listeners.

use axum::extract::State;
use axum::response::Response;

use super::Door;

pub(super) async fn get(State(door): State<Door>) -> Response {
    (door.page)()
}
