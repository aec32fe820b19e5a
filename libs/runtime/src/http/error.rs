//! The error answer of both servers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use pgfleet_api::{ErrorBody, ErrorCode, headers};

/// An error on its way out. The status is decided where this is made: in a door, nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status of the answer.
    pub status: StatusCode,
    /// Body of the answer; also kept in the response's extensions, so that a layer may write it in another shape.
    pub body: Box<ErrorBody>,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
    /// Mark the answer as proof that nothing was executed.
    pub executed_no: bool,
}

impl ApiError {
    /// An error with a status, a code and a line.
    #[must_use]
    pub fn new(status: StatusCode, code: ErrorCode, msg: impl Into<String>) -> Self {
        Self::with_body(status, ErrorBody::new(code, msg))
    }

    /// An error whose body is ready.
    #[must_use]
    pub fn with_body(status: StatusCode, body: ErrorBody) -> Self {
        Self { status, body: Box::new(body), retry_after: None, executed_no: false }
    }

    /// The same with the path of the field at fault.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.body.path = Some(path.into());
        self
    }

    /// The same with `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same, marked as not executed.
    #[must_use]
    pub fn not_executed(mut self) -> Self {
        self.executed_no = true;
        self
    }

    /// A defect of ours. The cause belongs into the log, not into the answer.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Internal,
            "internal error: the log has the cause under this request's id",
        )
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.body.msg)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&*self.body)).into_response();
        let out = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            out.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // What is left of the body is not read, so nothing can follow on this connection.
            out.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.executed_no {
            out.insert(headers::EXECUTED, HeaderValue::from_static("no"));
        }
        response.extensions_mut().insert(*self.body);
        response
    }
}
