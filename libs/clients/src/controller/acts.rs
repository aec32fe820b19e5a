//! What an operator does with computes beside their specs: ask why, end, try again, change many, watch.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_api::ComputeId;
use pgfleet_api::agent::TerminateMode;
use pgfleet_api::auth::Scope;
use pgfleet_api::bulk::{ApplyResult, WatchEvent};
use pgfleet_api::explain::ExplainView;
use pgfleet_api::policy::ActionAccepted;
use reqwest::{Method, Response};

use super::call::{Ask, Resend, Setback, Target, broken, judge};
use super::{ControllerClient, ControllerError, compute_path};
use crate::token::Grant;
use crate::transport::{Failure, authorize, join, read_body};

/// How long one request of a bulk upsert may take.
const APPLY_LIMIT: Duration = Duration::from_secs(120);
/// A member says something on a watch every 15 s, if only that there is nothing.
const SILENCE: Duration = Duration::from_secs(45);
/// Between two rounds over the members.
const PAUSE: Duration = Duration::from_millis(100);
/// More than this without the end of an event is no stream of ours.
const EVENT_LIMIT: usize = 4 << 20;
const REFUSAL_LIMIT: usize = 1 << 20;

impl ControllerClient {
    /// The same client, which gives this reason with everything that it changes; it goes into the journal.
    #[must_use]
    pub fn because(&self, reason: Option<&str>) -> Self {
        Self { reason: reason.map(Arc::from), ..self.clone() }
    }

    /// Why a compute is as it is, and what happens next.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn explain(&self, id: &ComputeId) -> Result<ExplainView, ControllerError> {
        self.fetch(Ask::get(&compute_path(id, "/explain"))).await
    }

    /// Has a compute ended once.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn terminate(&self, id: &ComputeId, mode: TerminateMode) -> Result<ActionAccepted, ControllerError> {
        let mode = match mode {
            TerminateMode::Fast => "fast",
            TerminateMode::Immediate => "immediate",
        };
        let query = BTreeMap::from([("mode", mode.to_owned())]);
        let ask = Ask { method: Method::POST, query, ..Ask::get(&compute_path(id, "/terminate")) };
        self.fetch(ask.unsafe_twice()).await
    }

    /// Has the spec of a compute applied again, also one that was given up.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn refresh(&self, id: &ComputeId) -> Result<ActionAccepted, ControllerError> {
        let ask = Ask { method: Method::POST, ..Ask::get(&compute_path(id, "/refresh")) };
        self.fetch(ask.unsafe_twice()).await
    }

    /// Has a compute ended, and then forgotten.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn end_and_delete(&self, id: &ComputeId) -> Result<ActionAccepted, ControllerError> {
        let query = BTreeMap::from([("terminate", "true".to_owned())]);
        let ask = Ask { method: Method::DELETE, query, ..Ask::get(&compute_path(id, "")) };
        self.fetch(ask.unsafe_twice()).await
    }

    /// Registers or changes computes: newline-delimited JSON, as it is. One result for each line that is not empty, also
    /// for one that is no JSON.
    ///
    /// # Errors
    /// See [`ControllerError`]; a line that is refused is an answer, not an error.
    pub async fn apply(&self, lines: Vec<u8>) -> Result<Vec<ApplyResult>, ControllerError> {
        let ask = Ask {
            method: Method::POST,
            body: Some(lines),
            resend: Resend::IfUnexecuted,
            target: Target::Work { limit: APPLY_LIMIT },
            ..Ask::get("/control/v1/compute/apply")
        };
        self.execute(ask).await?.json_lines()
    }

    /// Watches everything that is committed after `from` (default: from now on), across changes of leader and of member,
    /// until `each` breaks; gives the last change then.
    ///
    /// # Errors
    /// See [`ControllerError`]; refused with `cursor_pruned` where something after `from` is not kept any more.
    pub async fn watch(
        &self,
        from: Option<i64>,
        mut each: impl FnMut(WatchEvent) -> ControlFlow<()>,
    ) -> Result<Option<i64>, ControllerError> {
        let (mut cursor, mut heard, mut place) = (from, Instant::now(), 0_usize);
        let mut tried = BTreeMap::new();
        loop {
            let Some(endpoint) = self.endpoints.get(place % self.endpoints.len().max(1)) else {
                return Err(ControllerError::Unavailable { waited: Duration::ZERO, tried: "no endpoint".to_owned() });
            };
            match self.open_watch(endpoint, cursor).await {
                Ok(response) => {
                    let mut events = Events { response, pending: Vec::new() };
                    while let Some((id, event)) = events.next().await {
                        heard = Instant::now();
                        cursor = id.or(cursor);
                        if event.is_some_and(|event| each(event).is_break()) {
                            return Ok(cursor);
                        }
                    }
                }
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::GoOn { reason, .. }) => {
                    tried.insert(endpoint.clone(), reason);
                }
            }
            place += 1;
            if heard.elapsed() > self.options.deadline {
                let tried = tried.iter().map(|(url, reason)| format!("{url}: {reason}")).collect::<Vec<_>>().join("; ");
                return Err(ControllerError::Unavailable { waited: heard.elapsed(), tried });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open_watch(&self, endpoint: &str, from: Option<i64>) -> Result<Response, Setback> {
        let ask = Ask::get("/control/v1/watch");
        let mut request = self.http.request(Method::GET, join(endpoint, &ask.path));
        if let Some(from) = from {
            request = request.query(&[("from", from)]);
        }
        let request =
            authorize(request, &self.tokens, &Grant::of(Scope::Admin)).map_err(|error| Setback::Final(error.into()))?;
        let answer = tokio::time::timeout(self.options.attempt, request.send()).await;
        let response = answer.map_err(|_| broken(endpoint, &ask, Failure::Timeout))?;
        let response = response.map_err(|error| broken(endpoint, &ask, Failure::from(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read_body(response, REFUSAL_LIMIT).await.map_err(|failure| broken(endpoint, &ask, failure))?;
        Err(judge(endpoint, &ask, status.as_u16(), serde_json::from_slice(&body).ok(), false))
    }
}

/// The events of one connection.
struct Events {
    response: Response,
    pending: Vec<u8>,
}

impl Events {
    /// The next event with its id; one without data only moves the cursor. `None`: the connection is over.
    async fn next(&mut self) -> Option<(Option<i64>, Option<WatchEvent>)> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.pending.drain(..end + 2).collect();
                return Some(parse(&block));
            }
            if self.pending.len() > EVENT_LIMIT {
                return None;
            }
            let chunk = tokio::time::timeout(SILENCE, self.response.chunk()).await.ok()?.ok()??;
            self.pending.extend_from_slice(&chunk);
        }
    }
}

fn parse(block: &[u8]) -> (Option<i64>, Option<WatchEvent>) {
    let (mut id, mut event) = (None, None);
    for line in block.split(|byte| *byte == b'\n') {
        if let Some(text) = line.strip_prefix(b"id: ") {
            id = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        } else if let Some(text) = line.strip_prefix(b"data: ") {
            event = serde_json::from_slice(text).ok();
        }
    }
    (id, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_an_id_and_perhaps_data() {
        assert_eq!(parse(b"id: 7\n\n"), (Some(7), None));
        assert_eq!(parse(b": nothing new\n\n"), (None, None));
        let data = r#"{"change_seq":8,"at":"2026-11-24T10:00:00Z","compute_id":"a","term":1,"kind":"action","actor":"op","reason":null,"detail":{}}"#;
        let (id, event) = parse(format!("id: 8\ndata: {data}\n\n").as_bytes());
        assert_eq!((id, event.map(|event| event.change_seq)), (Some(8), Some(8)));
    }
}
