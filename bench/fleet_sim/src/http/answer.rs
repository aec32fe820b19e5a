//! The one map from a refusal to an answer: statuses, codes and words of a real agent.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use pgfleet_api::agent::{AgentErrorBody, ComputeState};
use pgfleet_api::{ErrorBody, ErrorCode, FenceMark};
use pgfleet_domain::fence;
use pgfleet_runtime::http::ApiError;

use crate::agent::Refusal;

pub(super) fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Fence { refusal, highest } => by_the_ledger(refusal, highest),
        Refusal::FenceRequired { highest } => {
            let msg = "this compute is owned by a cluster: change its spec there, or send a fence";
            conflict(ErrorCode::FenceRequired, msg, highest)
        }
        Refusal::Content { path, msg } => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, msg).at(path)
        }
        Refusal::NotReplica => {
            let msg = "only a compute that follows a primary can be promoted";
            ApiError::new(StatusCode::PRECONDITION_FAILED, ErrorCode::InvalidState, msg)
        }
        Refusal::Ending(state) => wrong_state(state),
    }
}

fn by_the_ledger(refusal: fence::Refusal, highest: Option<FenceMark>) -> ApiError {
    match refusal {
        fence::Refusal::ForeignCluster => {
            conflict(ErrorCode::ForeignCluster, "this compute belongs to another cluster", None)
        }
        fence::Refusal::WrongCompute => {
            let msg = "the fence names another compute than this agent owns";
            ApiError::new(StatusCode::MISDIRECTED_REQUEST, ErrorCode::WrongCompute, msg)
        }
        fence::Refusal::StaleTerm => {
            conflict(ErrorCode::StaleTerm, "a later leadership has spoken to this agent", highest)
        }
        fence::Refusal::StaleGeneration => {
            conflict(ErrorCode::StaleGeneration, "this agent has a later generation of the spec", highest)
        }
        fence::Refusal::Conflict => {
            conflict(ErrorCode::FenceConflict, "this agent has other content under the same generation", highest)
        }
    }
}

fn conflict(code: ErrorCode, msg: &str, highest: Option<FenceMark>) -> ApiError {
    ApiError::with_body(StatusCode::CONFLICT, ErrorBody { highest, ..ErrorBody::new(code, msg) })
}

/// The state does not allow it.
pub(super) fn wrong_state(state: ComputeState) -> ApiError {
    let msg = format!("invalid compute status: {}", state.as_str().replace('_', "-"));
    ApiError::new(StatusCode::PRECONDITION_FAILED, ErrorCode::InvalidState, msg)
}

/// There is no PostgreSQL to be asked. A real agent says so while its own does not run.
pub(super) fn no_postgres() -> ApiError {
    let msg = "PostgreSQL cannot be asked now";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::DatabaseAway, msg).retry_after(1)
}

/// Writes an error again in the agent's shape, and gives its code.
pub(super) fn in_the_agents_shape(mut response: Response) -> (Response, Option<ErrorCode>) {
    let Some(body) = response.extensions_mut().remove::<ErrorBody>() else { return (response, None) };
    let code = body.code;
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let (_, text) = Json(AgentErrorBody { error: body.msg.clone(), body }).into_response().into_parts();
    (Response::from_parts(parts, text), Some(code))
}
