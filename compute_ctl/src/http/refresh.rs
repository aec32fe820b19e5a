//! `POST /refresh_configuration`, on the internal listener: 200 at once; the agent asks for its spec and applies it.

use axum::extract::State;
use pgfleet_runtime::http::ApiError;

use super::Door;
use super::answer::refused;

pub(super) async fn post(State(door): State<Door>) -> Result<(), ApiError> {
    door.handle.refresh().await.map_err(refused)
}
