//! Metrics: the encoding of a page, and the groups that both servers have (HTTP, process, tasks).
//!
//! Each room of a server owns a group derived with `measured`; the server's root nests them and hands it to [`encode`].
//! Doc comments of metrics become HELP texts and must not hold a backslash, which would spoil the whole page.

mod labels;
mod process;
mod requests;
mod tasks;

use axum::response::{IntoResponse, Response};
use measured::MetricGroup;
use measured::text::BufferedTextEncoder;

pub use labels::{FixedNames, show_zeros};
pub use process::ProcessMetrics;
pub use requests::{HttpMetrics, Method, StatusClass};
pub use tasks::TaskMetrics;

/// Content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics as text.
pub fn encode_text(group: &impl MetricGroup<BufferedTextEncoder>) -> bytes::Bytes {
    let mut encoder = BufferedTextEncoder::new();
    match group.collect_group_into(&mut encoder) {
        Ok(()) => encoder.finish(),
        Err(never) => match never {},
    }
}

/// The answer to a scrape.
pub fn encode(group: &impl MetricGroup<BufferedTextEncoder>) -> Response {
    ([(http::header::CONTENT_TYPE, CONTENT_TYPE)], encode_text(group)).into_response()
}
