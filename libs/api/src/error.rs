//! The one error body of both servers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::controller::LeaderRef;
use crate::ids::{FenceMark, Generation, SpecHash};

/// Stable machine-readable reason of an error. Names are never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The body is not JSON; the message has the position.
    NotJson,
    /// The body is JSON but does not fit, or a rule refuses it; `path` names the field.
    InvalidBody,
    /// A query parameter, header or path segment cannot be used.
    InvalidRequest,
    /// The reason in `X-Reason` is too long or no plain UTF-8.
    InvalidReason,
    /// There is no such compute.
    UnknownCompute,
    /// There is no such database, schema, role, extension or other object in the compute.
    UnknownObject,
    /// There is no such route.
    UnknownRoute,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// The body is over the limit.
    PayloadTooLarge,
    /// The token is missing, malformed, expired or signed by a key that is not trusted.
    Unauthorized,
    /// The token is good and its scope does not allow this.
    Forbidden,
    /// `If-Match` names another generation than the current one, which the body gives.
    PreconditionFailed,
    /// The compute has no spec yet.
    NoSpec,
    /// The fence belongs to another fleet.
    ForeignCluster,
    /// The fence names another compute.
    WrongCompute,
    /// The fence's term is below the highest the agent has seen.
    StaleTerm,
    /// The fence's generation is below the highest the agent has seen.
    StaleGeneration,
    /// The same generation with other content.
    FenceConflict,
    /// The agent has been fenced once and takes nothing without a fence any more.
    FenceRequired,
    /// The agent's state does not allow this.
    InvalidState,
    /// PostgreSQL was in use a moment ago, or nobody can say; a termination on that condition was not begun.
    NotIdle,
    /// The spec could not be applied; phase and object are in the status.
    ApplyFailed,
    /// The agent of the compute cannot be reached, or does not answer as one.
    AgentAway,
    /// PostgreSQL refuses; the message is its own, with the SQLSTATE.
    Refused,
    /// As many requests of this kind as are allowed are being worked on.
    Busy,
    /// This member does not lead; `leader` names who does, if known.
    NoLeader,
    /// This member has stepped down or is about to.
    SteppedDown,
    /// This member took over and does not serve yet.
    TakingOver,
    /// `step_down` names an instance or term that this member is not.
    NotThatLeader,
    /// The candidate's migration failed a short while ago; `--force` overrides.
    MigrationFailedBefore,
    /// This member cannot lead: the schema is newer than it may write, or its process is ending.
    CannotLead,
    /// There is no such roll-out.
    UnknownRollout,
    /// There is another roll-out of this name, or one under way that has some of these computes.
    RolloutConflict,
    /// The roll-out's phase does not allow this.
    RolloutPhase,
    /// The cursor of a watch is older than what is kept; `oldest` is the oldest that is good.
    CursorPruned,
    /// The policy of the compute is pause or stop, and this would go against it.
    HeldByPolicy,
    /// The database cannot be reached or refuses.
    DatabaseAway,
    /// The request may or may not have been executed.
    OutcomeUnknown,
    /// The request took longer than it may.
    Timeout,
    /// The process is ending.
    ShuttingDown,
    /// A defect of ours; the log has the chain under the request id.
    Internal,
    /// A code this reader does not know.
    #[serde(other)]
    Unknown,
}

/// Body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable code.
    pub code: ErrorCode,
    /// One line for a person: what, where, what to do. Never a secret.
    pub msg: String,
    /// Path of the field that is at fault, like `cluster.roles[2].name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Who leads, as far as the answering member knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderRef>,
    /// Current generation, on `precondition_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Current content, on `precondition_failed`: a client recognises its own write by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<SpecHash>,
    /// The oldest cursor that is good, on `cursor_pruned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<i64>,
    /// Highest fence the agent has seen, on `stale_term` and `stale_generation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<FenceMark>,
}

impl ErrorBody {
    /// A body with a code and a line; the other fields are set by whoever knows them.
    #[must_use]
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            path: None,
            leader: None,
            generation: None,
            spec_hash: None,
            oldest: None,
            highest: None,
        }
    }

    /// The same body with the path of the field at fault.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_of_a_newer_server_is_read() {
        let body: ErrorBody = serde_json::from_str(r#"{"code":"from_the_future","msg":"m"}"#).unwrap();
        assert_eq!(body.code, ErrorCode::Unknown);
    }

    #[test]
    fn absent_fields_are_left_out() {
        let text = serde_json::to_string(&ErrorBody::new(ErrorCode::NoLeader, "m").at("a.b")).unwrap();
        assert_eq!(text, r#"{"code":"no_leader","msg":"m","path":"a.b"}"#);
    }
}
