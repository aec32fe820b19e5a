//! `POST /control/v1/compute/apply`: newline-delimited JSON in, a result line for every line out, as they come.
//!
//! The member that the client is connected to cuts the stream into pieces ([`in_pieces`]). Each piece goes the way of every
//! request: it is executed here or handed on. The leader executes the lines of a piece ([`apply`]). Invariants: a line that
//! is bad, or that fails, ends nothing; lines that nobody executed are sent again to the next leader, others never; at
//! most two pieces are in memory, and the next one is read when the results of the last one were taken. A dry run goes the
//! same way and writes nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, BodyDataStream, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{StatusCode, header};
use pgfleet_api::bulk::{ApplyLine, ApplyOutcome, ApplyQuery, ApplyResult};
use pgfleet_api::plan::DryVerdict;
use pgfleet_api::{ComputeId, ErrorBody, ErrorCode};
use pgfleet_runtime::http::{ApiError, parse_json};

use super::Door;
use super::error::into_api;
use super::extract::Asked;
use super::gate::{Errand, leads_elsewhere};
use super::pieces::{Piece, Pieces};
use crate::service::{Asker, Desk, Foreseen};

/// Its template.
pub(super) const ROUTE: &str = "/control/v1/compute/apply";
const NDJSON: &str = "application/x-ndjson";
/// Computes of one piece that are worked on at once. They share the writer's commits, so that more of them make a bulk change
/// hardly faster; but whoever writes a single one meanwhile waits for the commit of all of these.
const AT_ONCE: usize = 64;
/// Results of a piece stay far below.
const RESULTS_LIMIT: usize = 16 << 20;
/// Before lines that nobody executed are sent again.
const PAUSE: Duration = Duration::from_millis(5);

/// Register or change many computes. One JSON object per line in, one result per line out. With `dry_run` nothing is
/// done: each result has the verdict that its line would come to, and what the compute's agent says it would do.
#[utoipa::path(post, path = "/control/v1/compute/apply", tag = "computes",
    params(("dry_run" = Option<bool>, Query, description = "Write nothing; say what would be done. Default: false.")),
    request_body(content = ApplyLine, content_type = "application/x-ndjson"), responses(
    (status = 200, body = ApplyResult, content_type = "application/x-ndjson"), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn apply(
    State(door): State<Door>,
    Extension(caller): Extension<Asker>,
    Asked(ApplyQuery { dry_run }): Asked<ApplyQuery>,
    body: Bytes,
) -> Result<Response, ApiError> {
    door.desk.leading().map_err(into_api)?;
    let mut results = Vec::new();
    // Lines about the same compute keep their order.
    let mut by_compute: BTreeMap<ComputeId, Vec<(u64, ApplyLine)>> = BTreeMap::new();
    for (number, text) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        match parse_json::<ApplyLine>(text) {
            Ok(line) => by_compute.entry(line.compute_id.clone()).or_default().push((number, line)),
            Err(error) => results.push(refused(number, *error.body)),
        }
    }
    let work = by_compute.into_values().map(|lines| in_order(&door.desk, &caller, dry_run, lines));
    let mut done = stream::iter(work).buffer_unordered(AT_ONCE);
    while let Some(more) = done.next().await {
        results.extend(more);
    }
    Ok(answer(Body::from(text(results))))
}

async fn in_order(desk: &Desk, caller: &Asker, dry_run: bool, lines: Vec<(u64, ApplyLine)>) -> Vec<ApplyResult> {
    let mut results = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let id = line.compute_id.clone();
        let mut result = refused(number, ErrorBody::new(ErrorCode::Internal, ""));
        result.compute_id = Some(id);
        let done = if dry_run {
            desk.foresee(line).await.map(|foreseen| foresaw(&mut result, foreseen))
        } else {
            desk.apply(caller.clone(), line).await.map(|committed| {
                result.outcome = if committed.changed { ApplyOutcome::Applied } else { ApplyOutcome::Unchanged };
                (result.generation, result.spec_hash) = (Some(committed.generation), committed.spec_hash);
                result.error = None;
            })
        };
        if let Err(error) = done {
            let error = into_api(error);
            result.outcome = outcome_of(&error.body, error.executed_no);
            let refused = dry_run && result.outcome == ApplyOutcome::Refused;
            result.verdict = refused.then_some(DryVerdict::Refused);
            result.error = Some(*error.body);
        }
        results.push(result);
    }
    results
}

fn foresaw(result: &mut ApplyResult, Foreseen { verdict, plan, unknown }: Foreseen) {
    result.outcome = ApplyOutcome::Planned;
    result.error = unknown.map(|why| ErrorBody::new(ErrorCode::AgentAway, why));
    (result.verdict, result.plan) = (Some(verdict), plan);
}

fn refused(line: u64, error: ErrorBody) -> ApplyResult {
    let outcome = ApplyOutcome::Refused;
    ApplyResult {
        line,
        compute_id: None,
        outcome,
        generation: None,
        spec_hash: None,
        error: Some(error),
        verdict: None,
        plan: None,
    }
}

fn outcome_of(error: &ErrorBody, executed_no: bool) -> ApplyOutcome {
    match error.code {
        ErrorCode::OutcomeUnknown | ErrorCode::Internal | ErrorCode::Timeout => ApplyOutcome::OutcomeUnknown,
        _ if executed_no => ApplyOutcome::NotExecuted,
        _ => ApplyOutcome::Refused,
    }
}

fn text(mut results: Vec<ApplyResult>) -> Bytes {
    results.sort_by_key(|result| result.line);
    let mut text = Vec::new();
    for result in &results {
        // Values of ours always have a text.
        text.extend(serde_json::to_vec(result).unwrap_or_default());
        text.push(b'\n');
    }
    Bytes::from(text)
}

fn answer(body: Body) -> Response {
    ([(CONTENT_TYPE, NDJSON)], body).into_response()
}

/// The whole request of a client: piece after piece.
pub(super) async fn in_pieces(door: Door, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if let Err(refused) = Asked::<ApplyQuery>::from_request_parts(&mut parts, &door).await {
        return refused.into_response();
    }
    // Each piece has its own.
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT] {
        parts.headers.remove(name);
    }
    let client = Client { door, parts, next };
    let state = (client, Pieces::of(body.into_data_stream()));
    let results = stream::unfold(state, |(client, mut pieces): (Client, Pieces<BodyDataStream>)| async move {
        let piece = pieces.next().await?;
        let results = Box::pin(client.carry_out(piece)).await;
        Some((Ok::<_, Infallible>(text(results)), (client, pieces)))
    });
    answer(Body::from_stream(results))
}

struct Client {
    door: Door,
    parts: Parts,
    next: Next,
}

/// What came of a piece as a whole.
enum Sent {
    /// A result for each line, in the piece's own numbers.
    Results(Vec<ApplyResult>),
    /// The same for all.
    Failed(ApplyOutcome, Box<ErrorBody>),
}

impl Client {
    async fn carry_out(&self, piece: Piece) -> Vec<ApplyResult> {
        let mut results: Vec<ApplyResult> = piece.too_long.iter().map(|number| refused(*number, too_long())).collect();
        let mut open = piece.lines;
        let mut since = Instant::now();
        while !open.is_empty() {
            let before = open.len();
            match self.send(&open).await {
                Sent::Failed(outcome, error) => {
                    let failed = open
                        .drain(..)
                        .map(|(number, _)| ApplyResult { outcome, ..refused(number, ErrorBody::clone(&error)) });
                    results.extend(failed);
                }
                Sent::Results(told) => open = sort_out(open, told, &mut results),
            }
            if open.len() < before {
                since = Instant::now();
            } else if since.elapsed() >= self.door.gate.settings().hold {
                let error = ErrorBody::new(ErrorCode::NoLeader, "nobody leads; send this line again");
                let outcome = ApplyOutcome::NotExecuted;
                results.extend(
                    open.drain(..).map(|(number, _)| ApplyResult { outcome, ..refused(number, error.clone()) }),
                );
            } else if !open.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        results
    }

    /// One request of its own.
    async fn send(&self, lines: &[(u64, Bytes)]) -> Sent {
        let mut body = Vec::with_capacity(lines.iter().map(|(_, line)| line.len() + 1).sum());
        for (_, line) in lines {
            body.extend_from_slice(line);
            body.push(b'\n');
        }
        let errand = Errand::part(self.door.clone(), self.parts.clone(), Bytes::from(body), self.next.clone());
        let (head, body) = errand.run().await.into_parts();
        let unknown = |msg: &str| {
            Sent::Failed(ApplyOutcome::OutcomeUnknown, Box::new(ErrorBody::new(ErrorCode::OutcomeUnknown, msg)))
        };
        let Ok(body) = to_bytes(body, RESULTS_LIMIT).await else { return unknown("the leader was lost on the way") };
        if head.status == StatusCode::OK {
            let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            return match lines.map(serde_json::from_slice).collect() {
                Ok(results) => Sent::Results(results),
                Err(_) => unknown("the leader's answer cannot be read"),
            };
        }
        let executed_no = head.headers.get(pgfleet_api::headers::EXECUTED).is_some_and(|value| value == "no");
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(error) => Sent::Failed(outcome_of(&error, executed_no), Box::new(error)),
            Err(_) => unknown("the leader's answer cannot be read"),
        }
    }
}

/// Keeps the results of the lines that are done with; gives back those to be sent again, in their order.
fn sort_out(open: Vec<(u64, Bytes)>, told: Vec<ApplyResult>, results: &mut Vec<ApplyResult>) -> Vec<(u64, Bytes)> {
    let mut told: BTreeMap<u64, ApplyResult> = told.into_iter().map(|result| (result.line, result)).collect();
    let mut again = Vec::new();
    for (place, (number, line)) in (1..).zip(open) {
        match told.remove(&place) {
            Some(result) if result.outcome == ApplyOutcome::NotExecuted && is_for_the_next(&result) => {
                again.push((number, line));
            }
            Some(result) => results.push(ApplyResult { line: number, ..result }),
            None => {
                let error = ErrorBody::new(ErrorCode::OutcomeUnknown, "the leader said nothing of this line");
                results.push(ApplyResult { outcome: ApplyOutcome::OutcomeUnknown, ..refused(number, error) });
            }
        }
    }
    again
}

fn is_for_the_next(result: &ApplyResult) -> bool {
    result.error.as_ref().is_some_and(|error| leads_elsewhere(error.code))
}

fn too_long() -> ErrorBody {
    ErrorBody::new(ErrorCode::PayloadTooLarge, "a line has at most 3 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_nobody_executed_are_sent_again() {
        let told = |line, outcome, code| ApplyResult { outcome, ..refused(line, ErrorBody::new(code, "m")) };
        let open: Vec<_> = (0..5_u64).map(|n| (n * 10, Bytes::from(n.to_string()))).collect();
        let mut results = Vec::new();
        let answers = vec![
            told(1, ApplyOutcome::Applied, ErrorCode::Internal),
            told(2, ApplyOutcome::NotExecuted, ErrorCode::SteppedDown),
            told(3, ApplyOutcome::NotExecuted, ErrorCode::DatabaseAway),
            told(5, ApplyOutcome::OutcomeUnknown, ErrorCode::OutcomeUnknown),
        ];
        let again = sort_out(open, answers, &mut results);
        assert_eq!(again, [(10, Bytes::from("1"))]);
        let kept: Vec<_> = results.iter().map(|result| (result.line, result.outcome)).collect();
        assert_eq!(
            kept,
            [
                (0, ApplyOutcome::Applied),
                (20, ApplyOutcome::NotExecuted),
                (30, ApplyOutcome::OutcomeUnknown),
                (40, ApplyOutcome::OutcomeUnknown),
            ]
        );
    }
}
