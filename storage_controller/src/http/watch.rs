//! `GET /control/v1/watch`: server-sent events of everything that is committed, across changes of leader.
//!
//! The leader's handler reads the journal ([`watch`]) and ends with its leadership. The member that the client is connected
//! to puts one such stream after the other on the client's connection ([`spliced`]), each from the last event that it has
//! passed on. Invariants: only whole events are passed on, so nothing is lost or doubled where a stream broke off; nothing
//! is read ahead of what the client takes.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use pgfleet_api::ErrorBody;
use pgfleet_api::bulk::{WatchEvent, WatchQuery};
use pgfleet_runtime::http::ApiError;

use super::Door;
use super::error::into_api;
use super::extract::Asked;
use super::gate::{Errand, superseded};
use super::way::{Target, newest};
use crate::service::Watching;

/// Its template.
pub(super) const ROUTE: &str = "/control/v1/watch";
/// What a browser's client sends when it connects again.
const LAST_EVENT_ID: &str = "last-event-id";
/// More than this without the end of an event is no stream of ours.
const EVENT_LIMIT: usize = 4 << 20;
/// After a stream that ended without an event.
const PAUSE: Duration = Duration::from_millis(20);

/// Everything that is committed, as it is, in order, as server-sent events. The id of an event is its change_seq.
#[utoipa::path(get, path = "/control/v1/watch", tag = "computes",
    params(("from" = Option<i64>, Query), ("Last-Event-ID" = Option<i64>, Header)), responses(
    (status = 200, body = WatchEvent, content_type = "text/event-stream"), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 410, description = "cursor_pruned", body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn watch(
    State(door): State<Door>,
    given: HeaderMap,
    Asked(query): Asked<WatchQuery>,
) -> Result<Response, ApiError> {
    let last = given.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.parse().ok());
    let watching = door.desk.watch(query.from.or(last)).await.map_err(into_api)?;
    // An id without data moves a client's cursor and is no event.
    let opening = Bytes::from(format!("id: {}\n\n", watching.cursor()));
    let rest = stream::unfold(watching, |mut watching: Watching| async move {
        let events = watching.next().await?;
        Some((text(&events), watching))
    });
    let all = stream::once(std::future::ready(opening)).chain(rest).map(Ok::<_, Infallible>);
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((head, Body::from_stream(all)).into_response())
}

fn text(events: &[WatchEvent]) -> Bytes {
    if events.is_empty() {
        return Bytes::from_static(b": nothing new\n\n");
    }
    let mut text = String::new();
    for event in events {
        // Values of ours always have a text.
        let data = serde_json::to_string(event).unwrap_or_default();
        text.push_str(&format!("id: {}\ndata: {data}\n\n", event.change_seq));
    }
    Bytes::from(text)
}

/// The stream that the client sees.
pub(super) async fn spliced(door: Door, request: Request, next: Next) -> Response {
    let (mut parts, _no_body) = request.into_parts();
    let first = Errand::part(door.clone(), parts.clone(), Bytes::new(), next.clone()).run().await;
    if first.status() != StatusCode::OK {
        return first;
    }
    parts.headers.remove(LAST_EVENT_ID);
    let (mut head, body) = first.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    let source = Source { stream: body.into_data_stream(), of: leader(&door), pending: Vec::new(), gave: false };
    let splice = Splice { door, parts, next, source, cursor: None, resumed: false };
    let events = stream::unfold(splice, |mut splice| async move {
        let events = splice.next().await?;
        Some((Ok::<_, Infallible>(events), splice))
    });
    Response::from_parts(head, Body::from_stream(events))
}

struct Splice {
    door: Door,
    parts: Parts,
    next: Next,
    source: Source,
    /// Id of the last event that was passed on.
    cursor: Option<i64>,
    /// The first event of a further stream only repeats the cursor.
    resumed: bool,
}

/// The stream of one leader.
struct Source {
    stream: BodyDataStream,
    of: Target,
    pending: Vec<u8>,
    gave: bool,
}

impl Splice {
    /// The next whole events; none when the process closes its port or nobody leads for too long: the client connects again.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let chunk = tokio::select! {
                chunk = self.source.stream.next() => chunk.and_then(Result::ok),
                // Perhaps it hangs, and would for ever.
                () = superseded(&self.door, &self.source.of) => None,
                () = self.door.gate.ends().closing.cancelled() => return None,
            };
            match chunk {
                Some(chunk) => {
                    self.source.pending.extend_from_slice(&chunk);
                    if let Some(events) = self.whole() {
                        return Some(events);
                    }
                    if self.source.pending.len() > EVENT_LIMIT {
                        return None;
                    }
                }
                None => self.go_on().await?,
            }
        }
    }

    /// Takes the events that are complete.
    fn whole(&mut self) -> Option<Bytes> {
        let pending = &mut self.source.pending;
        if self.resumed {
            let end = end_of_first(pending)?;
            pending.drain(..end);
            self.resumed = false;
        }
        let end = pending.windows(2).rposition(|two| two == b"\n\n")? + 2;
        let events: Vec<u8> = pending.drain(..end).collect();
        self.source.gave = true;
        self.cursor = last_id(&events).or(self.cursor);
        Some(Bytes::from(events))
    }

    /// The same from the next leader.
    async fn go_on(&mut self) -> Option<()> {
        if !self.source.gave {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(cursor) = self.cursor {
            self.parts.uri = format!("{ROUTE}?from={cursor}").parse::<Uri>().ok()?;
        }
        let errand = Errand::part(self.door.clone(), self.parts.clone(), Bytes::new(), self.next.clone());
        let response = Box::pin(errand.run()).await;
        if response.status() != StatusCode::OK {
            tracing::debug!(status = response.status().as_u16(), "a watch ends: nobody goes on with it");
            return None;
        }
        let stream = response.into_body().into_data_stream();
        self.source = Source { stream, of: leader(&self.door), pending: Vec::new(), gave: false };
        self.resumed = self.cursor.is_some();
        Some(())
    }
}

/// Who is believed to lead now.
fn leader(door: &Door) -> Target {
    let standing = door.desk.leadership().standing();
    let heard = door.gate.heard().borrow().clone();
    match newest(&standing, heard.as_ref()) {
        Some(leader) => Target { address: leader.address.clone(), term: Some(leader.term) },
        None => Target { address: String::new(), term: None },
    }
}

fn end_of_first(text: &[u8]) -> Option<usize> {
    text.windows(2).position(|two| two == b"\n\n").map(|at| at + 2)
}

fn last_id(events: &[u8]) -> Option<i64> {
    let lines = events.split(|byte| *byte == b'\n').rev();
    lines.filter_map(|line| std::str::from_utf8(line.strip_prefix(b"id: ")?).ok()?.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_id_of_whole_events_is_the_cursor() {
        assert_eq!(last_id(b"id: 7\ndata: {\"a\": \"id: 9\"}\n\nid: 8\ndata: {}\n\n: nothing new\n\n"), Some(8));
        assert_eq!(last_id(b": nothing new\n\n"), None);
        assert_eq!(end_of_first(b"id: 7\n\nid: 8\n"), Some(7));
    }
}
