//! The leader gate: one middleware for every route that only the leader executes.
//!
//! ```text
//!            leads ──► the handler ──► answer
//!   request  handed on by a member (hop) ──► answered at once: executed, or "not executed" and who leads
//!            else ──► forwarded to the leader, or held until there is one, or until the time is over
//! ```
//!
//! Called by the router, after authentication. It calls the handlers, the desk (where does this member stand?) and
//! `clients::forward`. Invariants: a request goes on to a second member only if it is known that the first executed nothing,
//! or if it only reads; what came by a hop goes nowhere else; a handler that finds that this member does not lead (any
//! more) has executed nothing, so its request is held like one that never reached it.

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use pgfleet_api::{ErrorBody, ErrorCode, headers};
use pgfleet_clients::forward::{Answer, Ask, Outcome};
use pgfleet_clients::retry::Backoff;
use pgfleet_runtime::http::{ApiError, read_body_of};
use rand::Rng as _;
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::Door;
use super::apply;
use super::error::into_api;
use super::hold::{Charge, Held};
use super::wait::Wait;
use super::watch as events;
use super::way::{Target, newest, target};

/// The first pause of a request that is held, and the longest where it waits alone.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));
/// A member that still works on a request when another one leads gets this long: to drain takes less.
const GRACE: Duration = Duration::from_secs(1);
/// A member that lives answers for its status in this time.
const SIGN_OF_LIFE: Duration = Duration::from_millis(200);

/// Executes a request here, hands it on, or holds it.
pub(super) async fn lead_or_hand_on(State(door): State<Door>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(headers::HOP) {
        return match door.desk.leading() {
            Ok(_) => next.run(request).await,
            Err(error) => into_api(error).into_response(),
        };
    }
    let route = request.extensions().get::<MatchedPath>().cloned();
    match route.as_ref().map(MatchedPath::as_str) {
        Some(events::ROUTE) => events::spliced(door, request, next).await,
        Some(apply::ROUTE) => apply::in_pieces(door, request, next).await,
        _ => match Errand::read(door, request, next).await {
            Ok(errand) => errand.run().await,
            Err(refused) => refused,
        },
    }
}

/// Lets a read through once the database has confirmed that this member leads. Inside the gate, which hands on what is not
/// confirmed here, or holds it.
pub(super) async fn confirmed(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.desk.confirmed().await {
        Ok(()) => next.run(request).await,
        Err(error) => into_api(error).into_response(),
    }
}

/// A request on its way, with all that is needed to send it again.
pub(super) struct Errand {
    door: Door,
    parts: Parts,
    body: Bytes,
    next: Next,
    wait: Option<Wait>,
    charge: Option<Charge>,
}

/// What came of one try.
enum Try {
    /// An answer for the client.
    Answered(Response),
    /// Nothing was executed; what was said about it.
    NotYet(Option<Box<ErrorBody>>),
    /// It was sent and nobody knows what became of it.
    Lost(String),
    /// The process ends before there was an answer.
    Cut,
}

impl Errand {
    /// Reads the body; where the request may have to wait, only after there is room for it.
    async fn read(door: Door, request: Request, next: Next) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let charge = match door.desk.leading() {
            Ok(_) => None,
            Err(_) => Some(room(&door, door.gate.announced_bytes(&parts)).await?),
        };
        let body = read_body_of(&parts, body).await.map_err(IntoResponse::into_response)?;
        Ok(Self { wait: Wait::of(&parts), door, parts, body, next, charge })
    }

    /// A request that another one is made of.
    pub(super) fn part(door: Door, parts: Parts, body: Bytes, next: Next) -> Self {
        Self { wait: None, door, parts, body, next, charge: None }
    }

    /// Until it is answered.
    pub(super) async fn run(mut self) -> Response {
        if self.door.desk.leading().is_ok() {
            // The way of every request in quiet times.
            match self.here().await {
                Ok(response) => return response,
                Err(said) => drop(self.gave_back(&said)),
            }
        }
        self.go_round().await
    }

    async fn go_round(&mut self) -> Response {
        if self.charge.is_none() {
            match room(&self.door, u32::try_from(self.body.len()).unwrap_or(u32::MAX)).await {
                Ok(charge) => self.charge = Some(charge),
                Err(refused) => return refused,
            }
        }
        let gate = self.door.gate.clone();
        let (mut standing, mut heard, mut moved) =
            (self.door.desk.leadership().subscribe(), gate.heard(), gate.moved());
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut held: Option<Held> = None;
        loop {
            let to = target(&standing.borrow_and_update(), heard.borrow_and_update().as_ref(), self.door.me());
            let to = to.filter(|_| gate.settings().forward);
            moved.mark_unchanged();
            let begun = Instant::now();
            let tried = match (self.door.desk.leading(), &to) {
                (Ok(_), _) => self.here().await.map_or_else(|said| Try::NotYet(Some(said)), Try::Answered),
                (Err(_), Some(to)) => self.there(to).await,
                (Err(_), None) => Try::NotYet(None),
            };
            match tried {
                Try::Answered(response) => {
                    if let Some(held) = held {
                        held.taken();
                    }
                    return response;
                }
                Try::NotYet(Some(said)) if self.gave_back(&said) => held = None,
                Try::NotYet(_) => {}
                Try::Lost(why) if !self.only_reads() => return self.unknown(&why),
                // A member worked on it in the meantime: that is not the time that it was held.
                Try::Lost(_) if begun.elapsed() > gate.settings().hold => held = None,
                Try::Lost(_) => {}
                Try::Cut if self.only_reads() => return self.cut(),
                Try::Cut => return self.unknown("this process ends"),
            }
            let held = held.get_or_insert_with(|| gate.hold());
            let ends = gate.ends();
            let nobody_comes = ends.cut.is_cancelled() || ends.closing.is_cancelled() && to.is_none();
            if nobody_comes || Instant::now() >= held.until() {
                return self.refused();
            }
            let crowd = held.crowd().mul_f64(rand::rng().random_range(0.5..=1.0));
            let pause = backoff.next_pause().max(crowd).min(held.until().saturating_duration_since(Instant::now()));
            tokio::select! {
                () = changed(&mut standing) => {}
                () = changed(&mut heard) => {}
                () = changed(&mut moved) => {}
                () = ends.cut.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            self.only_the_rest();
        }
    }

    /// Notes what a member said that did not execute this; whether it had begun to wait.
    fn gave_back(&mut self, said: &ErrorBody) -> bool {
        let begun = self.wait.as_mut().is_some_and(|wait| wait.was_cut_short(said));
        self.only_the_rest();
        begun
    }

    /// A wait goes on with the time that is left.
    fn only_the_rest(&mut self) {
        if let Some(uri) = self.wait.as_ref().and_then(|wait| wait.rest(self.parts.uri.path())) {
            self.parts.uri = uri;
        }
    }

    /// The handler of this member; an error is what it said because this member does not lead any more.
    async fn here(&self) -> Result<Response, Box<ErrorBody>> {
        let request = Request::from_parts(self.parts.clone(), Body::from(self.body.clone()));
        let response = self.next.clone().run(request).await;
        disclaimed(&response).map_or(Ok(response), Err)
    }

    /// The member that is believed to lead.
    async fn there(&self, to: &Target) -> Try {
        let gate = &self.door.gate;
        if !self.only_reads() && gate.suspects(&to.address) && !lives(&self.door, to).await {
            return Try::NotYet(None);
        }
        let path = self.parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let ask = Ask { method: &self.parts.method, path, headers: &self.parts.headers };
        let outcome = tokio::select! {
            outcome = gate.forwarder().send(&to.address, ask, self.body.clone()) => outcome,
            () = superseded(&self.door, to) => {
                gate.suspect(&to.address);
                return Try::Lost(format!("{} does not lead any more", to.address));
            }
            () = gate.ends().cut.cancelled() => return Try::Cut,
        };
        if let Some(leader) = outcome.leader().filter(|leader| gate.hear(leader)) {
            self.door.desk.leadership().heard(leader.clone()).await;
        }
        match outcome {
            Outcome::Answered(answer) => {
                gate.metrics().forwarded();
                Try::Answered(passed_on(*answer))
            }
            Outcome::NotExecuted { reason, said } => {
                tracing::debug!(to = %to.address, %reason, "a request that was handed on was not executed");
                Try::NotYet(said)
            }
            Outcome::Unknown(failure) => {
                gate.suspect(&to.address);
                Try::Lost(format!("{}: {failure}", to.address))
            }
        }
    }

    /// Whether twice is once.
    fn only_reads(&self) -> bool {
        matches!(self.parts.method, Method::GET | Method::HEAD)
    }

    fn refused(&self) -> Response {
        refuse(&self.door)
    }

    fn unknown(&self, why: &str) -> Response {
        tracing::warn!(path = self.parts.uri.path(), why, "the outcome of a request that was handed on is not known");
        self.door.gate.metrics().failed(ErrorCode::OutcomeUnknown);
        let msg = format!("it may or may not have been executed ({why}); read what it was to change");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::OutcomeUnknown, msg).retry_after(1).into_response()
    }

    fn cut(&self) -> Response {
        self.door.gate.metrics().failed(ErrorCode::ShuttingDown);
        let msg = "this process ends; ask another member the same";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::ShuttingDown, msg)
            .retry_after(0)
            .not_executed()
            .into_response()
    }
}

/// A place among the requests that are held, or the answer that there is none.
async fn room(door: &Door, bytes: u32) -> Result<Charge, Response> {
    door.gate.admit(bytes).await.ok_or_else(|| refuse(door))
}

/// Whether a member that has lost a request still answers. A process that dies takes connections until the very end, and
/// each write that it gets meanwhile would be another one of unknown outcome.
async fn lives(door: &Door, to: &Target) -> bool {
    let gate = &door.gate;
    let ask = Ask { method: &Method::GET, path: "/status", headers: &HeaderMap::new() };
    let answer = tokio::time::timeout(SIGN_OF_LIFE, gate.forwarder().send(&to.address, ask, "")).await;
    let lives = matches!(answer, Ok(Outcome::Answered(_)));
    if lives {
        gate.trust(&to.address);
    }
    lives
}

/// 503: nothing was executed, and who leads.
fn refuse(door: &Door) -> Response {
    let error = match door.desk.leading() {
        // It began to lead this very moment.
        Ok(_) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TakingOver, "this member only just leads")
            .retry_after(0)
            .not_executed(),
        Err(error) => into_api(error),
    };
    door.gate.metrics().failed(error.body.code);
    error.into_response()
}

/// What a handler said that found that this member does not lead; nothing of any other answer.
fn disclaimed(response: &Response) -> Option<Box<ErrorBody>> {
    let marked = response.headers().get(headers::EXECUTED).is_some_and(|value| value == "no");
    let said = response.extensions().get::<ErrorBody>().filter(|_| marked)?;
    leads_elsewhere(said.code).then(|| Box::new(said.clone()))
}

/// Whether a code says that another member is to be asked.
pub(super) fn leads_elsewhere(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NoLeader | ErrorCode::SteppedDown | ErrorCode::TakingOver)
}

fn passed_on(answer: Answer) -> Response {
    let mut response = Response::new(Body::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// Returns when a newer leader than `of` has been known for a while: whatever `of` has not answered by then, it will not.
pub(super) async fn superseded(door: &Door, of: &Target) {
    let (mut standing, mut heard) = (door.desk.leadership().subscribe(), door.gate.heard());
    loop {
        let newer = {
            let (standing, heard) = (standing.borrow_and_update(), heard.borrow_and_update());
            newest(&standing, heard.as_ref())
                .is_some_and(|leader| of.term.is_none_or(|term| leader.term > term) && leader.address != of.address)
        };
        if newer {
            return tokio::time::sleep(GRACE).await;
        }
        tokio::select! {
            () = changed(&mut standing) => {}
            () = changed(&mut heard) => {}
        }
    }
}

/// The next change; for ever if there will be none.
async fn changed<T>(of: &mut watch::Receiver<T>) {
    if of.changed().await.is_err() {
        std::future::pending().await
    }
}
