//! Why a request to the cluster did not succeed, by what its caller can do about it.

use std::time::Duration;

use pgfleet_api::{ErrorBody, ErrorCode};

use crate::token::TokenError;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A rule refuses it, for good.
    #[error("{}{}", body.msg, at(body))]
    Refused {
        /// Who said so.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// The reason.
        body: Box<ErrorBody>,
    },
    /// The token is missing, not accepted, or not enough.
    #[error("{endpoint} does not allow it: {msg}; check --token-file")]
    NotAllowed {
        /// Who said so.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// The reason.
        msg: String,
    },
    /// No member could execute it before the deadline. It was not executed, unless it may be executed twice.
    #[error("no controller executed the request within {:.1} s: {tried}", waited.as_secs_f64())]
    Unavailable {
        /// How long was tried.
        waited: Duration,
        /// The last reason of each member.
        tried: String,
    },
    /// It was sent and its outcome is not known, and sending it again could do it twice.
    #[error("{endpoint} may or may not have executed the request: {reason}")]
    OutcomeUnknown {
        /// Whom it was sent to.
        endpoint: String,
        /// Why nothing is known.
        reason: String,
    },
    /// The answer is none of a controller's.
    #[error("{endpoint} gave no controller's answer (HTTP {status}); is it a pgfleet controller?")]
    Garbled {
        /// Who answered.
        endpoint: String,
        /// HTTP status.
        status: u16,
    },
    /// There is no token to send.
    #[error("no token to send")]
    Token(#[from] TokenError),
    /// The body cannot be written as JSON.
    #[error("the request cannot be written as JSON")]
    Body(#[from] serde_json::Error),
}

impl ControllerError {
    /// The stable code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { body, .. } => Some(body.code),
            Self::NotAllowed { .. }
            | Self::Unavailable { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Garbled { .. }
            | Self::Token(_)
            | Self::Body(_) => None,
        }
    }
}

fn at(body: &ErrorBody) -> String {
    body.path.as_ref().map(|path| format!(" (at {path})")).unwrap_or_default()
}
