//! `GET /insights`: the statements that take longest on average.
//!
//! The reference answers a JSON string that holds the document, and its clients parse it twice; `?format=object` gives the
//! document itself.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::StatusCode;
use pgfleet_api::ErrorCode;
use pgfleet_runtime::http::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Door;
use super::answer::unanswered;

/// Query of the route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    String,
    Object,
}

pub(super) async fn get(
    State(door): State<Door>,
    how: Result<Query<How>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(how) = how.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, error.body_text()).at("format")
    })?;
    door.must_run()?;
    let document = json!({"pg_stat_statements": door.read_only.slowest_statements().await.map_err(unanswered)?});
    Ok(Json(match how.format {
        Format::String => Value::String(document.to_string()),
        Format::Object => document,
    }))
}
