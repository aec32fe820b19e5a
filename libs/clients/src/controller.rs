//! Client of the cluster: any member will do, and a change of leader is the client's business, not its caller's.
//!
//! Who calls it: the CLI, the demo, an agent that pulls, tests. How a request goes on when it was not executed: at the
//! leader that the answer names, else at the next endpoint, each once per round; after a round a short jittered
//! pause; until the deadline. Invariants: a request whose outcome is unknown is sent again only if doing it twice is
//! doing it once (reads, a registration, a spec without `If-Match`); an answer of a rule (4xx) is final.

mod acts;
mod call;
mod error;
mod rollout;
mod route;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgfleet_api::agent::{PullResponse, ReportAccepted, TransitionReport};
use pgfleet_api::bulk::{ApplyLine, ApplyResult, WatchEvent};
use pgfleet_api::compute::{
    ComputeList, ComputeView, HistoryPage, HistoryQuery, ListQuery, RegisterCompute, SpecAccepted, SpecView, WaitResult,
};
use pgfleet_api::controller::{ControllerStatus, LeaderView, MemberList, TakeOverRequest, TakeOverResponse, TermList};
use pgfleet_api::policy::PutPolicy;
use pgfleet_api::{ComputeId, Generation};
use reqwest::Method;
use serde_json::Value;

use self::call::{Ask, Resend, Target};
pub use self::error::ControllerError;
use crate::token::Source;
use crate::transport::{Roots, SetUpError, Wire};

/// Lines of one request of a dry run: each may wait for an agent.
const DRY_RUN_LINES: usize = 64;
/// How long such a request may take.
const DRY_RUN_LIMIT: Duration = Duration::from_secs(120);

/// How patient a [`ControllerClient`] is and where it begins.
#[derive(Clone)]
pub struct Options {
    /// In which one request must have succeeded, all attempts together.
    pub deadline: Duration,
    /// When all members refuse the connection, this is enough: a cluster that is being restarted has one that listens.
    pub refused_deadline: Duration,
    /// For one attempt. Longer than a member may hold a request during a hand-over.
    pub attempt: Duration,
    /// The longest pause between two rounds over the members.
    pub max_pause: Duration,
    /// Begin at the leader that answered last instead of at the first endpoint.
    pub remember_leader: bool,
    /// Is told of every finished request.
    pub on_call: Option<Hook>,
    /// The certificates to trust, in place of the system's.
    pub roots: Option<Roots>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15),
            refused_deadline: Duration::from_secs(2),
            attempt: Duration::from_secs(5),
            max_pause: Duration::from_millis(50),
            remember_leader: true,
            on_call: None,
            roots: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("deadline", &self.deadline)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// A listener for finished requests.
pub type Hook = Arc<dyn Fn(&CallRecord) + Send + Sync>;

/// One finished request, for statistics.
#[derive(Debug, Clone)]
pub struct CallRecord {
    /// Whether it changes something.
    pub is_write: bool,
    /// When it was first sent.
    pub started: Instant,
    /// When its last answer arrived.
    pub ended: Instant,
    /// How often it was sent.
    pub attempts: u32,
    /// How often no member could execute it and the client paused.
    pub pauses: u32,
    /// The member that executed it, or why it failed in the end.
    pub outcome: Result<String, String>,
}

/// Client of a cluster of controllers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ControllerClient {
    http: reqwest::Client,
    tokens: Source,
    endpoints: Arc<[String]>,
    options: Options,
    leader: Arc<Mutex<Option<String>>>,
    /// Why, for the journal.
    reason: Option<Arc<str>>,
}

impl ControllerClient {
    /// A client that knows these members by their base URLs.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(endpoints: Vec<String>, tokens: Source, options: Options) -> Result<Self, SetUpError> {
        let wire = Wire { connect_timeout: Duration::from_secs(2), idle_per_host: 8 };
        let http = match &options.roots {
            Some(roots) => wire.client_that_trusts(roots)?,
            None => wire.client()?,
        };
        let endpoints = endpoints.into_iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Self { http, tokens, endpoints, options, leader: Arc::default(), reason: None })
    }

    /// The members it was told of.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The leader row.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn leader(&self) -> Result<LeaderView, ControllerError> {
        self.fetch(Ask::get("/control/v1/leader")).await
    }

    /// The terms there were, the newest first.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn leader_history(&self, limit: u32) -> Result<TermList, ControllerError> {
        let query = BTreeMap::from([("limit", limit.to_string())]);
        self.fetch(Ask { query, ..Ask::get("/control/v1/leader/history") }).await
    }

    /// Has the member at `endpoint` take over and waits until it leads and serves. One attempt, at that member only; it
    /// may migrate, so `limit` is long.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn take_over(
        &self,
        endpoint: &str,
        request: &TakeOverRequest,
        limit: Duration,
    ) -> Result<TakeOverResponse, ControllerError> {
        let ask = Ask::post("/control/v1/take_over", request, Resend::IfUnexecuted)?;
        self.ask_one(endpoint, Ask { target: Target::Work { limit }, ..ask }).await?.json()
    }

    /// The cluster's members, as the leader knows them.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn controllers(&self) -> Result<MemberList, ControllerError> {
        self.fetch(Ask::get("/control/v1/controllers")).await
    }

    /// What the member at `endpoint` is. One attempt.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn status(&self, endpoint: &str) -> Result<ControllerStatus, ControllerError> {
        self.ask_one(endpoint, Ask::get("/status")).await?.json()
    }

    /// Whether requests sent to the member at `endpoint` get served. One attempt.
    pub async fn ready(&self, endpoint: &str) -> bool {
        self.ask_one(endpoint, Ask::get("/ready")).await.is_ok()
    }

    /// The metrics page of the member at `endpoint`. One attempt.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn metrics(&self, endpoint: &str) -> Result<String, ControllerError> {
        let answer = self.ask_one(endpoint, Ask::get("/metrics")).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Registers a compute or changes its registration.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn register(&self, id: &ComputeId, body: &RegisterCompute) -> Result<ComputeView, ControllerError> {
        self.fetch(Ask::put(&compute_path(id, ""), body, Resend::Always)?).await
    }

    /// Asks for a spec. With `if_match` only if that is the current generation.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn put_spec(
        &self,
        id: &ComputeId,
        spec: &Value,
        if_match: Option<Generation>,
    ) -> Result<SpecAccepted, ControllerError> {
        // Twice the same content is one generation; under a condition the second sending could only fail.
        let resend = if if_match.is_some() { Resend::IfUnexecuted } else { Resend::Always };
        let ask = Ask { if_match, ..Ask::put(&compute_path(id, "/spec"), spec, resend)? };
        self.fetch(ask).await
    }

    /// Intent and observation of a compute.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn get(&self, id: &ComputeId) -> Result<ComputeView, ControllerError> {
        self.fetch(Ask::get(&compute_path(id, ""))).await
    }

    /// The spec asked for.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn get_spec(&self, id: &ComputeId) -> Result<SpecView, ControllerError> {
        self.fetch(Ask::get(&compute_path(id, "/spec"))).await
    }

    /// One page of what the journal has of a compute, the newest line first.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn history(&self, id: &ComputeId, query: &HistoryQuery) -> Result<HistoryPage, ControllerError> {
        let mut pairs = BTreeMap::new();
        let mut add = |name: &'static str, value: Option<String>| value.map(|value| pairs.insert(name, value));
        add("limit", query.limit.map(|limit| limit.to_string()));
        add("cursor", query.cursor.map(|cursor| cursor.to_string()));
        add("since", query.since.map(|since| since.to_rfc3339()));
        add("until", query.until.map(|until| until.to_rfc3339()));
        add("kind", query.kind.clone());
        let query = pairs;
        self.fetch(Ask { query, ..Ask::get(&compute_path(id, "/history")) }).await
    }

    /// All that the journal has of a compute, the newest line first, page by page.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn history_all(&self, id: &ComputeId) -> Result<Vec<WatchEvent>, ControllerError> {
        let mut query = HistoryQuery { limit: Some(1000), ..HistoryQuery::default() };
        let mut all = Vec::new();
        loop {
            let page = self.history(id, &query).await?;
            all.extend(page.lines);
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// One page of computes.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn list(&self, query: &ListQuery) -> Result<ComputeList, ControllerError> {
        let mut pairs = BTreeMap::new();
        let mut add = |name: &'static str, value: Option<String>| value.map(|value| pairs.insert(name, value));
        add("state", query.state.map(|state| state.as_str().to_owned()));
        add("label", query.label.clone());
        add("lagging", query.lagging.map(|lagging| lagging.to_string()));
        add("limit", query.limit.map(|limit| limit.to_string()));
        add("cursor", query.cursor.as_ref().map(ToString::to_string));
        self.fetch(Ask { query: pairs, ..Ask::get("/control/v1/compute") }).await
    }

    /// Every compute that the query selects, page by page.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn list_all(&self, query: &ListQuery) -> Result<Vec<ComputeView>, ControllerError> {
        let mut query = query.clone();
        let mut all = Vec::new();
        loop {
            let page = self.list(&query).await?;
            all.extend(page.computes);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(all),
            }
        }
    }

    /// Waits until a generation (default: the current one) is settled, or the time is over. A change of leader does
    /// not end the wait: it goes on at the next one with the time that is left.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn wait(
        &self,
        id: &ComputeId,
        generation: Option<Generation>,
        timeout: Duration,
    ) -> Result<WaitResult, ControllerError> {
        let mut ask = Ask::get(&compute_path(id, "/wait"));
        ask.target = Target::Wait { until: Instant::now() + timeout };
        ask.query.extend(generation.map(|generation| ("generation", generation.to_string())));
        self.fetch(ask).await
    }

    /// Changes how far the leader may go with a compute by itself. `reason` goes into the journal.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn put_policy(
        &self,
        id: &ComputeId,
        policy: &PutPolicy,
        reason: Option<&str>,
    ) -> Result<ComputeView, ControllerError> {
        let ask = Ask::put(&compute_path(id, "/policy"), policy, Resend::Always)?;
        self.fetch(Ask { reason: reason.map(ToOwned::to_owned), ..ask }).await
    }

    /// Forgets a compute and leaves it running.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn delete(&self, id: &ComputeId) -> Result<(), ControllerError> {
        self.execute(Ask { method: Method::DELETE, ..Ask::get(&compute_path(id, "")) }.unsafe_twice()).await.map(drop)
    }

    /// Ends the quarantine of a compute; one that is not quarantined is left as it is. `reason` goes into the journal.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn unquarantine(&self, id: &ComputeId, reason: Option<&str>) -> Result<ComputeView, ControllerError> {
        let ask = Ask::get(&compute_path(id, "/unquarantine"));
        self.fetch(Ask { method: Method::POST, reason: reason.map(ToOwned::to_owned), ..ask }).await
    }

    /// Says what a bulk upsert would come to; nothing is done. One result per line, in their order.
    ///
    /// # Errors
    /// See [`ControllerError`]; a line that would be refused is an answer, not an error.
    pub async fn dry_run(&self, lines: &[ApplyLine]) -> Result<Vec<ApplyResult>, ControllerError> {
        let mut results = Vec::with_capacity(lines.len());
        for (part, lines) in lines.chunks(DRY_RUN_LINES).enumerate() {
            let mut body = Vec::new();
            for line in lines {
                serde_json::to_writer(&mut body, line)?;
                body.push(b'\n');
            }
            let ask = Ask {
                method: Method::POST,
                query: BTreeMap::from([("dry_run", "true".to_owned())]),
                body: Some(body),
                target: Target::Work { limit: DRY_RUN_LIMIT },
                ..Ask::get("/control/v1/compute/apply")
            };
            let first = u64::try_from(part * DRY_RUN_LINES).unwrap_or(u64::MAX);
            let told: Vec<ApplyResult> = self.execute(ask).await?.json_lines()?;
            results.extend(told.into_iter().map(|result| ApplyResult { line: result.line + first, ..result }));
        }
        Ok(results)
    }

    /// An agent's report that its status has changed. Told once: a hint that is lost costs nothing.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn report(&self, id: &ComputeId, report: &TransitionReport) -> Result<ReportAccepted, ControllerError> {
        self.fetch(Ask::post(&compute_path(id, "/report"), report, Resend::Always)?).await
    }

    /// The agent's pull: the spec asked for with its fence.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn pull(&self, id: &ComputeId) -> Result<PullResponse, ControllerError> {
        self.fetch(Ask::get(&format!("/compute/api/v2/computes/{id}/spec"))).await
    }
}

/// A compute id is a safe path segment by its own rule.
fn compute_path(id: &ComputeId, rest: &str) -> String {
    format!("/control/v1/compute/{id}{rest}")
}
