//! One request's life: attempts, what each answer means, when to stop.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use pgfleet_api::auth::Scope;
use pgfleet_api::{ErrorBody, ErrorCode, Generation, headers};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, IF_MATCH};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::route::Route;
use super::{CallRecord, ControllerClient, ControllerError};
use crate::token::Grant;
use crate::transport::{Failure, authorize, join, read_body};

/// A full page of computes with their last errors stays far below.
const ANSWER_LIMIT: usize = 64 << 20;

/// May a request be sent again although it may have been executed?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resend {
    /// Twice is once.
    Always,
    /// Only when it is known not to have been executed.
    IfUnexecuted,
}

/// How the target behaves in time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Answers at once.
    Plain,
    /// Answers when something is settled, or at this time.
    Wait { until: Instant },
    /// Answers when it is done, which may take this long.
    Work { limit: Duration },
}

/// One request, before it is addressed.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: BTreeMap<&'static str, String>,
    pub(super) body: Option<Vec<u8>>,
    pub(super) if_match: Option<Generation>,
    /// Why, for the journal.
    pub(super) reason: Option<String>,
    pub(super) resend: Resend,
    pub(super) target: Target,
}

impl Ask {
    pub(super) fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            query: BTreeMap::new(),
            body: None,
            if_match: None,
            reason: None,
            resend: Resend::Always,
            target: Target::Plain,
        }
    }

    pub(super) fn put(path: &str, body: &impl Serialize, resend: Resend) -> Result<Self, ControllerError> {
        let body = Some(serde_json::to_vec(body)?);
        Ok(Self { method: Method::PUT, body, resend, ..Self::get(path) })
    }

    pub(super) fn post(path: &str, body: &impl Serialize, resend: Resend) -> Result<Self, ControllerError> {
        Ok(Self { method: Method::POST, ..Self::put(path, body, resend)? })
    }

    pub(super) fn unsafe_twice(mut self) -> Self {
        self.resend = Resend::IfUnexecuted;
        self
    }
}

/// A success.
#[derive(Debug)]
pub(super) struct Answer {
    endpoint: String,
    status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ControllerError> {
        serde_json::from_slice(&self.body)
            .map_err(|_| ControllerError::Garbled { endpoint: self.endpoint.clone(), status: self.status })
    }
}

impl Answer {
    /// One value per line.
    pub(super) fn json_lines<T: DeserializeOwned>(&self) -> Result<Vec<T>, ControllerError> {
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .map_err(|_| ControllerError::Garbled { endpoint: self.endpoint.clone(), status: self.status })
    }
}

/// What one attempt came to, when it is no success.
pub(super) enum Setback {
    /// Over: nobody else would answer otherwise.
    Final(ControllerError),
    /// Not executed here; perhaps by the leader it names. `refused`: nobody listens there at all.
    GoOn { reason: String, leader: Option<String>, refused: bool },
}

impl ControllerClient {
    pub(super) async fn fetch<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ControllerError> {
        self.execute(ask).await?.json()
    }

    /// One attempt at one member.
    pub(super) async fn ask_one(&self, endpoint: &str, ask: Ask) -> Result<Answer, ControllerError> {
        let started = Instant::now();
        let left = match ask.target {
            Target::Plain | Target::Wait { .. } => self.options.attempt,
            Target::Work { limit } => limit,
        };
        self.attempt(endpoint, &ask, left).await.map_err(|setback| match setback {
            Setback::Final(error) => error,
            Setback::GoOn { reason, .. } => {
                ControllerError::Unavailable { waited: started.elapsed(), tried: format!("{endpoint}: {reason}") }
            }
        })
    }

    /// Attempts until success, a final answer, or the deadline.
    pub(super) async fn execute(&self, ask: Ask) -> Result<Answer, ControllerError> {
        let started = Instant::now();
        let mut attempts = 0;
        let mut pauses = 0;
        let result = self.rounds(&ask, started, &mut attempts, &mut pauses).await;
        if let Some(hook) = &self.options.on_call {
            let is_write = ask.method != Method::GET;
            let outcome = match &result {
                Ok(answer) => Ok(answer.endpoint.clone()),
                Err(error) => Err(error.to_string()),
            };
            hook(&CallRecord { is_write, started, ended: Instant::now(), attempts, pauses, outcome });
        }
        result
    }

    async fn rounds(
        &self,
        ask: &Ask,
        started: Instant,
        attempts: &mut u32,
        pauses: &mut u32,
    ) -> Result<Answer, ControllerError> {
        let deadline = match ask.target {
            Target::Plain => started + self.options.deadline,
            Target::Wait { until } => until + self.options.deadline,
            Target::Work { limit } => started + limit,
        };
        let mut tried: BTreeMap<String, String> = BTreeMap::new();
        let unavailable = |tried: &BTreeMap<String, String>| ControllerError::Unavailable {
            waited: started.elapsed(),
            tried: tried.iter().map(|(url, reason)| format!("{url}: {reason}")).collect::<Vec<_>>().join("; "),
        };
        let Some(mut route) = Route::new(&self.endpoints, self.remembered(), self.options.max_pause) else {
            return Err(unavailable(&BTreeMap::from([("--endpoint".to_owned(), "none is known".to_owned())])));
        };
        let mut may_reload = true;
        let mut all_refused = true;
        loop {
            let endpoint = route.current().to_owned();
            let left = deadline.saturating_duration_since(Instant::now());
            *attempts += 1;
            let setback = match self.attempt(&endpoint, ask, left).await {
                Ok(answer) => {
                    self.remember(endpoint);
                    return Ok(answer);
                }
                Err(setback) => setback,
            };
            let (reason, leader, refused) = match setback {
                Setback::Final(ControllerError::NotAllowed { .. }) if may_reload => {
                    // A token file that was just rotated deserves one look.
                    may_reload = false;
                    self.tokens.reload();
                    continue;
                }
                Setback::Final(error) => return Err(error),
                Setback::GoOn { reason, leader, refused } => (reason, leader, refused),
            };
            all_refused &= refused;
            tried.insert(endpoint, reason);
            let pause = route.advance(leader);
            *pauses = route.pauses();
            let is_dead = all_refused && started.elapsed() >= self.options.refused_deadline;
            if is_dead || Instant::now() + pause >= deadline {
                return Err(unavailable(&tried));
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn attempt(&self, endpoint: &str, ask: &Ask, left: Duration) -> Result<Answer, Setback> {
        let mut request = self.http.request(ask.method.clone(), join(endpoint, &ask.path)).query(&ask.query);
        let patience = match ask.target {
            Target::Plain => self.options.attempt,
            Target::Wait { until } => {
                let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
                request = request.query(&[("timeout_s", format!("{seconds:.0}"))]);
                self.options.attempt + Duration::from_secs_f64(seconds)
            }
            Target::Work { limit } => limit,
        };
        if let Some(body) = &ask.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        if let Some(generation) = ask.if_match {
            request = request.header(IF_MATCH, format!("\"{generation}\""));
        }
        let reason = ask.reason.as_deref().or(self.reason.as_deref());
        if let Some(reason) = reason.filter(|_| ask.method != Method::GET) {
            // Bytes: a reason is UTF-8, and a header's text only ASCII.
            request = request.header(headers::REASON, reason.as_bytes());
        }
        let request = authorize(request.timeout(patience.min(left)), &self.tokens, &Grant::of(Scope::Admin))
            .map_err(|error| Setback::Final(error.into()))?;
        let response = request.send().await.map_err(|error| broken(endpoint, ask, Failure::from(&error)))?;
        let status = response.status();
        let not_executed = response.headers().get(headers::EXECUTED).is_some_and(|value| value == "no");
        let body = read_body(response, ANSWER_LIMIT).await.map_err(|failure| broken(endpoint, ask, failure))?;
        if status.is_success() {
            return Ok(Answer { endpoint: endpoint.to_owned(), status: status.as_u16(), body });
        }
        Err(judge(endpoint, ask, status.as_u16(), serde_json::from_slice(&body).ok(), not_executed))
    }

    fn remembered(&self) -> Option<String> {
        if !self.options.remember_leader {
            return None;
        }
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, endpoint: String) {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
    }
}

/// An attempt without an answer.
pub(super) fn broken(endpoint: &str, ask: &Ask, failure: Failure) -> Setback {
    if failure.is_unexecuted() || ask.resend == Resend::Always {
        let refused = failure == Failure::Refused;
        return Setback::GoOn { reason: failure.as_str().to_owned(), leader: None, refused };
    }
    let reason = failure.as_str().to_owned();
    Setback::Final(ControllerError::OutcomeUnknown { endpoint: endpoint.to_owned(), reason })
}

/// An answer that is no success.
pub(super) fn judge(endpoint: &str, ask: &Ask, status: u16, body: Option<ErrorBody>, not_executed: bool) -> Setback {
    let endpoint = endpoint.to_owned();
    let code = body.as_ref().map(|body| body.code);
    let msg = |body: Option<ErrorBody>| body.map_or_else(|| format!("HTTP {status}"), |body| body.msg);
    match status {
        401 | 403 => Setback::Final(ControllerError::NotAllowed { endpoint, status, msg: msg(body) }),
        502..=504 => {
            let rejected = matches!(
                code,
                Some(ErrorCode::NoLeader | ErrorCode::SteppedDown | ErrorCode::TakingOver | ErrorCode::ShuttingDown)
            );
            if not_executed || rejected || ask.resend == Resend::Always {
                let leader = body.as_ref().and_then(|body| body.leader.as_ref());
                let leader = leader.map(|leader| leader.address.trim_end_matches('/').to_owned());
                return Setback::GoOn { reason: msg(body), leader, refused: false };
            }
            Setback::Final(ControllerError::OutcomeUnknown { endpoint, reason: msg(body) })
        }
        _ => Setback::Final(match body {
            Some(body) => ControllerError::Refused { endpoint, status, body: Box::new(body) },
            None => ControllerError::Garbled { endpoint, status },
        }),
    }
}
