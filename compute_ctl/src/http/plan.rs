//! `POST /plan`: what a spec would do; nothing is done.
//!
//! The body is a spec, or the body of `POST /configure`: an object with a field `spec`. A spec that would be refused is an
//! answer too: 200 with the verdict `refused` and what `/configure` would say. Paths count from the spec.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pgfleet_api::ErrorCode;
use pgfleet_api::agent::ConfigureRequest;
use pgfleet_api::plan::{PlanRefusal, PlanResponse};
use pgfleet_runtime::http::{ApiError, JsonBody};
use serde_json::Value;

use super::Door;
use super::answer::refused;

pub(super) async fn post(
    State(door): State<Door>,
    JsonBody(body): JsonBody<Value>,
) -> Result<Json<PlanResponse>, ApiError> {
    let (spec, fence) = if body.get("spec").is_some() {
        let request: ConfigureRequest = serde_json::from_value(body).map_err(|error| {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, error.to_string()).at(".")
        })?;
        (request.spec, request.fence)
    } else {
        (body, None)
    };
    let planned = door.preview.plan(&spec, fence.as_ref()).await.map_err(refused)?;
    let refusal = planned.refusal.map(|refusal| {
        let body = refused(refusal).body;
        PlanRefusal { code: body.code, path: body.path, msg: body.msg }
    });
    Ok(Json(PlanResponse { refusal, ..planned.response }))
}
