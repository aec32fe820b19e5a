//! `POST /spec`: a bare spec, as `curl -d` sends it.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::HeaderMap;
use pgfleet_runtime::http::{ApiError, JsonBody};
use serde_json::Value;

use super::Door;
use super::configure::{Wait, limit, take};
use crate::lifecycle::{Configure, Origin};

pub(super) async fn post(
    State(door): State<Door>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
    JsonBody(spec): JsonBody<Value>,
) -> Result<Response, ApiError> {
    let limit = limit(wait, &headers)?;
    take(&door, Configure { spec, fence: None, origin: Origin::Push }, limit).await
}
