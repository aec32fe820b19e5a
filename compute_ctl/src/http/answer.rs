//! Answers: refusals to statuses, and errors in the agent's shape.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use pgfleet_api::agent::AgentErrorBody;
use pgfleet_api::{ErrorBody, ErrorCode};
use pgfleet_domain::fence;
use pgfleet_runtime::http::ApiError;

use crate::lifecycle::Refusal;

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
        Refusal::Ending(state) => ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            ErrorCode::InvalidState,
            format!("not possible while the compute is {}", state.as_str()),
        ),
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

/// Writes an error again with the `error` field where the reference's clients look for it.
pub(super) async fn in_the_agents_shape(mut response: Response) -> Response {
    let Some(body) = response.extensions_mut().remove::<ErrorBody>() else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(http::header::CONTENT_LENGTH);
    let (_, text) = Json(AgentErrorBody { error: body.msg.clone(), body }).into_response().into_parts();
    Response::from_parts(parts, text)
}
