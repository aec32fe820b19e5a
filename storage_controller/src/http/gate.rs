//! The leader gate: what this member does not execute in its role is answered here, unread.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Door;
use super::error::into_api;

/// Passes a request on only while this member leads.
pub(super) async fn leader_only(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.desk.leading() {
        Ok(_) => next.run(request).await,
        Err(error) => into_api(error).into_response(),
    }
}
