//! Test doors. They exist only with `--dev`, stand in no document, and need a token like everything else if there are keys.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt as _};
use http::{StatusCode, header};

use super::Door;

/// Path of the door to the memory.
pub(super) const MEMORY: &str = "/dev/memory";

/// Gives the lines of the memory; nothing while this member follows nothing.
pub type MemoryDoor = Arc<dyn Fn() -> BoxFuture<'static, Option<BoxStream<'static, String>>> + Send + Sync>;

/// What this member would take over with: newline-delimited JSON, `{"change_seq": n}` and then every compute by id.
pub(super) async fn memory(State(door): State<Door>) -> Response {
    let lines = match &door.memory {
        Some(memory) => memory().await,
        None => None,
    };
    match lines {
        Some(lines) => {
            let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
            ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
