//! `GET /database_schema?database=`: the output of `pg_dump --schema-only`, as it is written.
//!
//! What goes wrong before the first byte is an error answer. Later the body breaks off without its end, so that a client
//! cannot take a part for the whole.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{StatusCode, header};
use pgfleet_api::ErrorCode;
use pgfleet_runtime::http::ApiError;
use serde::Deserialize;

use super::Door;
use super::answer::unanswered;

/// Query of the route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    database: String,
}

pub(super) async fn get(
    State(door): State<Door>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Which { database }) = which.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, error.body_text()).at("database")
    })?;
    let dump = door.read_only.dump_schema(&database).await.map_err(unanswered)?;
    let pieces = stream::try_unfold(dump, |mut dump| async move {
        let piece = dump.next().await.inspect_err(|error| {
            tracing::warn!("the dump of a schema broke off: {}", pgfleet_runtime::exit::chain(error));
        })?;
        Ok::<_, crate::postgres::AskError>(piece.map(|piece| (piece, dump)))
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(pieces)).into_response())
}
