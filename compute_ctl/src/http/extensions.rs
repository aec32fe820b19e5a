//! `POST /extensions`: have an extension in a database, in a version. For programs on the same machine.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pgfleet_api::errands::{ExtensionRequest, ExtensionResponse};
use pgfleet_runtime::http::{ApiError, JsonBody};

use super::Door;
use super::answer::unanswered;

pub(super) async fn post(
    State(door): State<Door>,
    JsonBody(body): JsonBody<ExtensionRequest>,
) -> Result<(StatusCode, Json<ExtensionResponse>), ApiError> {
    door.must_run()?;
    let version = door.errands.install_extension(&body).await.map_err(unanswered)?;
    Ok((StatusCode::CREATED, Json(ExtensionResponse { extension: body.extension, version })))
}
