//! Answers: refusals to statuses, and errors in the agent's shape.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use pgfleet_api::agent::{AgentErrorBody, ComputeState};
use pgfleet_api::{ErrorBody, ErrorCode};
use pgfleet_domain::fence;
use pgfleet_runtime::http::ApiError;

use crate::lifecycle::Refusal;
use crate::postgres::AskError;

/// The one map from a refusal to an answer.
pub(super) fn refused(refusal: Refusal) -> ApiError {
    let conflict = |code, msg: &str, highest| {
        let body = ErrorBody { highest, ..ErrorBody::new(code, msg) };
        ApiError::with_body(StatusCode::CONFLICT, body)
    };
    match refusal {
        Refusal::Fence { refusal, highest } => match refusal {
            fence::Refusal::ForeignCluster => {
                conflict(ErrorCode::ForeignCluster, "this compute belongs to another cluster", None)
            }
            fence::Refusal::WrongCompute => ApiError::new(
                StatusCode::MISDIRECTED_REQUEST,
                ErrorCode::WrongCompute,
                "the fence names another compute than this agent owns",
            ),
            fence::Refusal::StaleTerm => {
                conflict(ErrorCode::StaleTerm, "a later leadership has spoken to this agent", highest)
            }
            fence::Refusal::StaleGeneration => {
                conflict(ErrorCode::StaleGeneration, "this agent has a later generation of the spec", highest)
            }
            fence::Refusal::Conflict => {
                conflict(ErrorCode::FenceConflict, "this agent has other content under the same generation", highest)
            }
        },
        Refusal::FenceRequired { highest } => conflict(
            ErrorCode::FenceRequired,
            "this compute is owned by a cluster: change its spec there, or send a fence",
            highest,
        ),
        Refusal::Content { path, msg } => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, msg).at(path)
        }
        Refusal::NotReplica => ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            ErrorCode::InvalidState,
            "only a compute that follows a primary can be promoted",
        ),
        Refusal::Ending(state) => wrong_state(state),
        Refusal::NoSource => ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            ErrorCode::InvalidState,
            "there is nobody to ask for a spec: the agent was given neither -p nor -c",
        ),
        Refusal::Unable(why) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, why),
        Refusal::Gone => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::ShuttingDown, "the agent is ending")
            .not_executed(),
    }
}

/// The state does not allow it; the words are the reference's.
pub(super) fn wrong_state(state: ComputeState) -> ApiError {
    let msg = format!("invalid compute status: {}", state.as_str().replace('_', "-"));
    ApiError::new(StatusCode::PRECONDITION_FAILED, ErrorCode::InvalidState, msg)
}

/// The one map from what PostgreSQL does not answer to an answer.
pub(super) fn unanswered(error: AskError) -> ApiError {
    let (status, code) = match &error {
        AskError::Away(_) => {
            tracing::warn!("{}", pgfleet_runtime::exit::chain(&error));
            (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::DatabaseAway)
        }
        AskError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Timeout),
        AskError::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::Busy),
        AskError::Unknown { .. } => (StatusCode::NOT_FOUND, ErrorCode::UnknownObject),
        AskError::Unfit { .. } => (StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody),
        AskError::Refused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::Refused),
        AskError::Program { .. } => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal),
    };
    let answer = ApiError::new(status, code, error.to_string());
    match error {
        AskError::Unfit { path, .. } => answer.at(path),
        AskError::Away(_) | AskError::Busy(_) => answer.retry_after(1),
        AskError::Timeout(_) | AskError::Unknown { .. } | AskError::Refused { .. } | AskError::Program { .. } => answer,
    }
}

/// Writes an error again with the `error` field where the reference's clients look for it.
pub(super) async fn in_the_agents_shape(mut response: Response) -> Response {
    let Some(body) = response.extensions_mut().remove::<ErrorBody>() else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(http::header::CONTENT_LENGTH);
    let (_, text) = Json(AgentErrorBody { error: body.msg.clone(), body }).into_response().into_parts();
    Response::from_parts(parts, text)
}
