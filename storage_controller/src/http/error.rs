//! The one place where a use case's error becomes a status.

use http::StatusCode;
use pgfleet_api::controller::{LeaderRef, Role};
use pgfleet_api::{ErrorBody, ErrorCode};
use pgfleet_runtime::exit::chain;
use pgfleet_runtime::http::ApiError;

use crate::service::{ServiceError, StepDownRefusal, TakeOverRefusal};

/// The answer to an error of the desk. What is our own trouble is logged here, once, with its causes.
pub(super) fn into_api(error: ServiceError) -> ApiError {
    let msg = error.to_string();
    match error {
        ServiceError::NotLeading { role, leader } => not_leading(role, leader),
        ServiceError::WaitCutShort { role, leader, generation } => {
            let mut error = not_leading(role, leader);
            error.body.generation = Some(generation);
            error
        }
        ServiceError::StepDown(refusal) => stays(refusal, msg),
        ServiceError::TakeOver(refusal) => no_take_over(refusal, msg),
        ServiceError::UnknownCompute(_) => ApiError::new(StatusCode::NOT_FOUND, ErrorCode::UnknownCompute, msg),
        ServiceError::HeldByPolicy { .. } => ApiError::new(StatusCode::CONFLICT, ErrorCode::HeldByPolicy, msg),
        ServiceError::CursorPruned { oldest } => {
            let mut body = ErrorBody::new(ErrorCode::CursorPruned, msg);
            body.oldest = Some(oldest);
            ApiError::with_body(StatusCode::GONE, body)
        }
        ServiceError::NoSpec(_) => ApiError::new(StatusCode::CONFLICT, ErrorCode::NoSpec, msg),
        ServiceError::Rule(rule) => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, rule.msg).at(rule.path)
        }
        ServiceError::PreconditionFailed { generation, spec_hash, .. } => {
            let mut body = ErrorBody::new(ErrorCode::PreconditionFailed, msg);
            body.generation = Some(generation);
            body.spec_hash = spec_hash;
            ApiError::with_body(StatusCode::PRECONDITION_FAILED, body)
        }
        ServiceError::UnknownRollout(_) => ApiError::new(StatusCode::NOT_FOUND, ErrorCode::UnknownRollout, msg),
        ServiceError::RolloutConflict(_) => ApiError::new(StatusCode::CONFLICT, ErrorCode::RolloutConflict, msg),
        ServiceError::RolloutPhase(_) => ApiError::new(StatusCode::CONFLICT, ErrorCode::RolloutPhase, msg),
        ServiceError::Refused { .. } => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, msg),
        ServiceError::DatabaseAway { .. } => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::DatabaseAway, msg).retry_after(1).not_executed()
        }
        ServiceError::OutcomeUnknown => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::OutcomeUnknown, msg).retry_after(1)
        }
        ServiceError::Database(source) => {
            tracing::warn!("a read failed: {}", chain(&source));
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::DatabaseAway, msg).retry_after(1).not_executed()
        }
    }
}

/// This member does not step down.
fn stays(refusal: StepDownRefusal, msg: String) -> ApiError {
    let (code, leader) = match refusal {
        StepDownRefusal::NotThatLeader { leader } => (ErrorCode::NotThatLeader, leader),
        StepDownRefusal::MigrationFailedBefore { leader, .. } => (ErrorCode::MigrationFailedBefore, leader),
    };
    let mut body = ErrorBody::new(code, msg);
    body.leader = leader;
    ApiError::with_body(StatusCode::CONFLICT, body)
}

/// This member did not take over.
fn no_take_over(refusal: TakeOverRefusal, msg: String) -> ApiError {
    match refusal {
        TakeOverRefusal::CannotLead | TakeOverRefusal::Unauthorized => {
            ApiError::new(StatusCode::CONFLICT, ErrorCode::CannotLead, msg)
        }
        TakeOverRefusal::MigrationFailedBefore => {
            ApiError::new(StatusCode::CONFLICT, ErrorCode::MigrationFailedBefore, msg)
        }
        TakeOverRefusal::NotInTime { leader } => {
            let mut body = ErrorBody::new(ErrorCode::Timeout, msg);
            body.leader = leader;
            ApiError::with_body(StatusCode::SERVICE_UNAVAILABLE, body).retry_after(1)
        }
    }
}

/// 503 with the way to the leader. `Retry-After: 0` where trying again at once makes sense.
fn not_leading(role: Role, leader: Option<LeaderRef>) -> ApiError {
    let (code, what) = match role {
        Role::Candidate => (ErrorCode::NoLeader, "does not lead"),
        Role::TakingOver => (ErrorCode::TakingOver, "takes over and does not serve yet"),
        // A leader comes here when it finds its lease run out, or when it is about to step down.
        Role::Leader | Role::Suspended => (ErrorCode::NoLeader, "cannot prove its lease"),
        Role::SteppingDown | Role::SteppedDown => (ErrorCode::SteppedDown, "has stepped down"),
    };
    // Whoever takes over names itself: it is the one to ask again.
    let other = leader.filter(|_| !matches!(role, Role::Leader | Role::Suspended));
    let msg = match &other {
        Some(leader) if role == Role::TakingOver => format!("the member at {} {what}", leader.address),
        Some(leader) => format!("this member {what}; the leader is at {}", leader.address),
        None => format!("this member {what}; nothing was executed, try again or ask another member"),
    };
    let wait = u32::from(role == Role::Candidate && other.is_none());
    let mut body = ErrorBody::new(code, msg);
    body.leader = other;
    ApiError::with_body(StatusCode::SERVICE_UNAVAILABLE, body).retry_after(wait).not_executed()
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use pgfleet_api::{InstanceId, Term};

    use super::*;

    #[test]
    fn a_candidate_names_the_leader_and_lets_retry_at_once() {
        let leader = LeaderRef { instance_id: InstanceId::generate(), term: Term(3), address: "http://a".into() };
        let error = into_api(ServiceError::NotLeading { role: Role::Candidate, leader: Some(leader.clone()) });
        assert_eq!((error.status.as_u16(), error.retry_after, error.executed_no), (503, Some(0), true));
        assert_eq!(error.body.leader, Some(leader));
        let response = error.into_response();
        assert_eq!(response.headers()["x-pgfleet-executed"], "no");
        assert_eq!(response.headers()["retry-after"], "0");
        let headless = into_api(ServiceError::NotLeading { role: Role::Candidate, leader: None });
        assert_eq!((headless.retry_after, headless.body.code), (Some(1), ErrorCode::NoLeader));
    }

    #[test]
    fn what_may_have_happened_is_never_marked_as_not_executed() {
        let error = into_api(ServiceError::OutcomeUnknown);
        assert_eq!((error.body.code, error.executed_no), (ErrorCode::OutcomeUnknown, false));
    }
}
