//! What every door does the same way: the error body, JSON bodies with positions, request ids, timeouts, metrics.
//!
//! A server builds its router and hands it to [`finish`]. Invariants: every answer has a request id; every error answer is
//! an [`ErrorBody`](pgfleet_api::ErrorBody), also those of the framework; a panic in a handler is a 500 and no more.

mod error;
mod json;
mod layers;

pub use error::ApiError;
pub use json::{JsonBody, parse_json, read_body, read_body_of};
pub use layers::{Layers, RequestId, finish};
