//! An agent's door: the routes of the external listener of `compute_ctl`, with its order of checks and its words.
//!
//! Which agent is asked is in the extensions of the request, put there by whoever accepted the connection. What needs a real
//! PostgreSQL is answered as by an agent whose PostgreSQL cannot be asked.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use pgfleet_api::agent::{
    AgentStatus, ComputeState, ConfigureRequest, PromoteRequest, PromoteState, PromoteStatus, TerminateMode,
    TerminateRequest, TerminateResponse,
};
use pgfleet_api::auth::{AGENT_AUDIENCE, Claims, Scope};
use pgfleet_api::errands::StartTimings;
use pgfleet_api::plan::{PlanRefusal, PlanResponse};
use pgfleet_api::{ComputeId, ErrorCode, Fence};
use pgfleet_domain::spec;
use pgfleet_domain::spec::StorageKind;
use pgfleet_runtime::auth::{AuthError, Verifier, forbidden};
use pgfleet_runtime::http::{ApiError, JsonBody, Layers, finish, parse_json};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{in_the_agents_shape, no_postgres, refused, wrong_state};
use crate::agent::{Agent, Ask, Content, Micros, Origin, Outcome, Progress, Refusal};
use crate::fleet::Fleet;
use crate::settings;

const DEFAULT_TIMEOUT_S: u64 = 60;
const MAX_TIMEOUT_S: u64 = 3600;

/// Which agent a request is for.
#[derive(Debug, Clone, Copy)]
pub struct Caller(pub u32);

#[derive(Clone)]
struct Door {
    fleet: Arc<Fleet>,
    verifier: Option<Verifier>,
}

/// The routes of every agent.
pub fn agents(fleet: &Arc<Fleet>, verifier: Option<Verifier>, layers: Layers) -> Router {
    let door = Door { fleet: Arc::clone(fleet), verifier };
    let open = Router::new().route("/metrics", get(metrics)).with_state(door.clone());
    let guarded = Router::new()
        .route("/status", get(status))
        .route("/configure", post(configure))
        .route("/plan", post(plan))
        .route("/spec", post(bare_spec))
        .route("/terminate", post(terminate))
        .route("/promote", post(promote))
        .route("/metrics.json", get(start_timings))
        .route("/dbs_and_roles", get(async || no_postgres()))
        .route("/database_schema", get(database_schema))
        .route("/check_writability", post(check_writability))
        .route("/insights", get(insights))
        .route_layer(from_fn_with_state(door.clone(), guard))
        .with_state(door.clone());
    finish(open.merge(guarded), layers).layer(from_fn_with_state(door, in_shape))
}

/// Counts a refusal and writes it in the agent's shape.
async fn in_shape(State(door): State<Door>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().copied();
    let (response, code) = in_the_agents_shape(next.run(request).await);
    if let (Some(code), Some(Caller(n))) = (code, caller) {
        door.with(n, |agent, _| agent.tally.refused(code));
    }
    response
}

async fn guard(State(door): State<Door>, request: Request, next: Next) -> Result<Response, ApiError> {
    if let (Some(verifier), Some(Caller(n))) = (&door.verifier, request.extensions().get()) {
        let claims = verifier.verify(request.headers()).map_err(unproven)?;
        judge(&claims, &door.fleet.compute_id(*n))?;
    }
    Ok(next.run(request).await)
}

fn unproven(error: AuthError) -> ApiError {
    match error {
        AuthError::MissingToken => ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unauthorized, error.to_string()),
        AuthError::BadToken(_) => error.into(),
    }
}

fn judge(claims: &Claims, own: &ComputeId) -> Result<(), ApiError> {
    match claims.scope {
        Some(Scope::AgentAdmin) if !claims.aud.iter().any(|aud| aud == AGENT_AUDIENCE) => {
            let msg = "the token is not accepted: its audience is not \"compute\"";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, msg))
        }
        Some(Scope::AgentAdmin) if claims.compute_id.as_ref().is_none_or(|id| id == own) => Ok(()),
        Some(Scope::AgentAdmin) => Err(forbidden("no other compute_id")),
        None | Some(Scope::Compute) if claims.compute_id.as_ref() == Some(own) => Ok(()),
        None | Some(Scope::Compute) => Err(forbidden("this agent's compute_id")),
        Some(Scope::Admin | Scope::Infra | Scope::ControllerPeer | Scope::Viewer) => {
            Err(forbidden("scope compute_ctl:admin or this agent's compute_id"))
        }
    }
}

impl Door {
    /// Acts on one agent. The listener lets nobody in who asks for another.
    fn with<T>(&self, n: u32, act: impl FnOnce(&mut Agent, Micros) -> T) -> T {
        let now = self.fleet.now();
        let Some(mut agent) = self.fleet.agent(n) else { unreachable!("agent {n} is not simulated") };
        act(&mut agent, now)
    }

    fn state(&self, n: u32) -> ComputeState {
        self.with(n, |agent, now| {
            agent.advance(now);
            agent.state()
        })
    }

    /// The status as the agent's machine stands; it has caught up with the time before.
    fn says(&self, n: u32) -> AgentStatus {
        let (status, life) = self.with(n, |agent, _| (agent.status(self.fleet.face(n, 0)), agent.life()));
        AgentStatus { boot_id: self.fleet.face(n, life).boot_id, ..status }
    }

    fn must_run(&self, n: u32) -> Result<(), ApiError> {
        match self.state(n) {
            ComputeState::Running => Ok(()),
            other => Err(wrong_state(other)),
        }
    }
}

async fn metrics(State(door): State<Door>, Extension(Caller(n)): Extension<Caller>) -> Response {
    let state = door.state(n).as_str();
    let text = format!(
        "# HELP compute_ctl_up Always 1; the label says in which state the compute is.\n# TYPE compute_ctl_up gauge\ncompute_ctl_up{{status=\"{state}\"}} 1\n"
    );
    ([(http::header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(door): State<Door>, Extension(Caller(n)): Extension<Caller>) -> Json<AgentStatus> {
    door.with(n, |agent, now| {
        agent.tally.probes += 1;
        agent.advance(now);
    });
    Json(door.says(n))
}

async fn start_timings() -> Json<StartTimings> {
    Json(StartTimings::default())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    #[serde(rename = "database")]
    _database: String,
}

async fn database_schema(query: Result<Query<Schema>, QueryRejection>) -> ApiError {
    match query {
        Ok(_) => no_postgres(),
        Err(error) => bad_query(&error, "database"),
    }
}

async fn check_writability(State(door): State<Door>, Extension(Caller(n)): Extension<Caller>) -> ApiError {
    door.must_run(n).err().unwrap_or_else(no_postgres)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Insights {
    #[serde(rename = "format", default)]
    _format: Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    String,
    Object,
}

async fn insights(
    State(door): State<Door>,
    Extension(Caller(n)): Extension<Caller>,
    query: Result<Query<Insights>, QueryRejection>,
) -> ApiError {
    match query {
        Ok(_) => door.must_run(n).err().unwrap_or_else(no_postgres),
        Err(error) => bad_query(&error, "format"),
    }
}

fn bad_query(error: &QueryRejection, path: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, error.body_text()).at(path)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    timeout_s: Option<u64>,
}

async fn configure(
    State(door): State<Door>,
    Extension(Caller(n)): Extension<Caller>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ConfigureRequest>,
) -> Result<Response, ApiError> {
    let limit = limit(wait, &headers)?;
    take(&door, n, (&body.spec, body.fence.as_ref()), limit).await.map_err(below_spec)
}

async fn bare_spec(
    State(door): State<Door>,
    Extension(Caller(n)): Extension<Caller>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
    JsonBody(spec): JsonBody<Value>,
) -> Result<Response, ApiError> {
    let limit = limit(wait, &headers)?;
    take(&door, n, (&spec, None), limit).await
}

async fn plan(
    State(door): State<Door>,
    Extension(Caller(n)): Extension<Caller>,
    JsonBody(body): JsonBody<Value>,
) -> Result<Json<PlanResponse>, ApiError> {
    let (document, fence) = if body.get("spec").is_some() {
        let request: ConfigureRequest = serde_json::from_value(body).map_err(|error| {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, error.to_string()).at(".")
        })?;
        (request.spec, request.fence)
    } else {
        (body, None)
    };
    let (hash, rules) = (|| spec::spec_hash(&document), || rules(&document));
    let ask = Ask { fence: fence.as_ref(), origin: Origin::Push, hash: &hash, judge: &rules, apply: (0, false) };
    let own = door.fleet.compute_id(n);
    let (response, refusal) = door.with(n, |agent, now| {
        agent.tally.plans += 1;
        agent.plan(&own, &ask, now)
    });
    let refusal = refusal.map(|refusal| {
        let body = refused(refusal).body;
        PlanRefusal { code: body.code, path: body.path, msg: body.msg }
    });
    Ok(Json(PlanResponse { refusal, ..response }))
}

async fn promote(
    State(door): State<Door>,
    Extension(Caller(n)): Extension<Caller>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<PromoteRequest>,
) -> Result<(StatusCode, Json<PromoteState>), ApiError> {
    let limit = limit(wait, &headers)?;
    let asked = (&body.spec, body.fence.as_ref());
    let Some(job) = admit(&door, n, asked, Origin::Promote).map_err(refused).map_err(below_spec)? else {
        return Ok(promotion(door.with(n, |agent, _| agent.settled_promotion())));
    };
    let last = door.with(n, |agent, _| agent.promotion());
    match outcome(&door, n, job, limit).await {
        None => Ok((StatusCode::ACCEPTED, Json(last))),
        Some(Outcome::Applied | Outcome::Failed) => Ok(promotion(door.with(n, |agent, _| agent.promotion()))),
        Some(Outcome::Superseded) => {
            let error = Some("a later spec took its place before it was begun".to_owned());
            Ok(promotion(PromoteState { status: PromoteStatus::Failed, error, ..PromoteState::default() }))
        }
        Some(Outcome::Ended) => Err(wrong_state(door.state(n))),
    }
}

fn promotion(state: PromoteState) -> (StatusCode, Json<PromoteState>) {
    let code = match state.status {
        PromoteStatus::Completed => StatusCode::OK,
        PromoteStatus::NotPromoted | PromoteStatus::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, Json(state))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    #[serde(default)]
    mode: TerminateMode,
    if_idle_ms: Option<u64>,
}

async fn terminate(
    State(door): State<Door>,
    Extension(Caller(n)): Extension<Caller>,
    how: Result<Query<How>, QueryRejection>,
    body: Bytes,
) -> Result<(StatusCode, Json<TerminateResponse>), ApiError> {
    let Query(how) = how.map_err(|error| bad_query(&error, "mode"))?;
    let request = if body.trim_ascii().is_empty() { TerminateRequest::default() } else { parse_json(&body)? };
    let own = door.fleet.compute_id(n);
    door.with(n, |agent, now| {
        agent.tally.terminations += 1;
        request.fence.as_ref().map_or(Ok(()), |fence| agent.prove(&own, fence, now))
    })
    .map_err(refused)?;
    if let Some(wanted_ms) = how.if_idle_ms {
        is_idle(&door, n, wanted_ms)?;
    }
    let (stop, _) = door.fleet.next_apply(n, 0);
    let ending = door.with(n, |agent, now| agent.terminate(how.mode, now, stop));
    until(&door, ending.at).await;
    door.with(n, |agent, now| agent.advance(now));
    let status = if ending.before { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TerminateResponse { lsn: Some("0/1500000".to_owned()) })))
}

/// Whether nothing was active for so long. One that is ending already has nobody left to disturb.
fn is_idle(door: &Door, n: u32, wanted_ms: u64) -> Result<(), ApiError> {
    let state = door.state(n);
    let ending = matches!(
        state,
        ComputeState::TerminationPendingFast | ComputeState::TerminationPendingImmediate | ComputeState::Terminated
    );
    let msg = match door.with(n, |agent, now| agent.idle_us(now)).map(|us| us / 1000) {
        _ if ending => return Ok(()),
        Some(idle_ms) if idle_ms >= wanted_ms => return Ok(()),
        Some(idle_ms) => format!("PostgreSQL is idle for {idle_ms} ms only"),
        None => format!("it is not known whether PostgreSQL is idle while the compute is {}", state.as_str()),
    };
    Err(ApiError::new(StatusCode::PRECONDITION_FAILED, ErrorCode::NotIdle, msg))
}

/// How long the caller wants to wait.
fn limit(wait: Result<Query<Wait>, QueryRejection>, headers: &HeaderMap) -> Result<Duration, ApiError> {
    let Query(wait) = wait.map_err(|error| bad_query(&error, "timeout_s"))?;
    let prefers = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let respond_async =
        prefers.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("respond-async"));
    let seconds = if respond_async { 0 } else { wait.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S).min(MAX_TIMEOUT_S) };
    Ok(Duration::from_secs(seconds))
}

/// The path of a field counts from the body, and here the spec is one of its fields.
fn below_spec(mut error: ApiError) -> ApiError {
    if let Some(path) = &mut error.body.path {
        *path = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
    }
    error
}

/// Hands a spec in and answers for it.
async fn take(door: &Door, n: u32, asked: (&Value, Option<&Fence>), limit: Duration) -> Result<Response, ApiError> {
    let outcome = match admit(door, n, asked, Origin::Push).map_err(refused)? {
        None => Some(Outcome::Applied),
        Some(job) => outcome(door, n, job, limit).await,
    };
    let status = door.says(n);
    match outcome {
        Some(Outcome::Applied) => Ok(Json(status).into_response()),
        None | Some(Outcome::Superseded) => Ok((StatusCode::ACCEPTED, Json(status)).into_response()),
        Some(Outcome::Ended) => Err(wrong_state(status.status)),
        Some(Outcome::Failed) => {
            let why = status.error.unwrap_or_else(|| "see the status".to_owned());
            let msg = format!("compute configuration failed: {why}");
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::ApplyFailed, msg))
        }
    }
}

fn admit(
    door: &Door,
    n: u32,
    (document, fence): (&Value, Option<&Fence>),
    origin: Origin,
) -> Result<Option<u32>, Refusal> {
    let own = door.fleet.compute_id(n);
    let (hash, rules) = (|| spec::spec_hash(document), || rules(document));
    door.with(n, |agent, now| {
        agent.tally.pushed(now);
        let apply = door.fleet.next_apply(n, u64::from(agent.tally.pushes));
        let before = agent.jobs();
        let taken = agent.configure(&own, &Ask { fence, origin, hash: &hash, judge: &rules, apply }, now);
        match &taken {
            Ok(_) if agent.jobs() > before => agent.tally.accepted += 1,
            Ok(_) => agent.tally.repeated += 1,
            Err(_) => {}
        }
        taken
    })
}

/// Every rule of the content that can refuse a spec.
fn rules(document: &Value) -> Result<Content, Refusal> {
    let parsed = spec::parse(document).map_err(|error| Refusal::Content { path: error.path, msg: error.msg })?;
    settings::judge(&parsed.spec)?;
    Ok(Content {
        ignored: parsed.ignored_fields,
        disposable: parsed.storage == StorageKind::PageServer,
        restart_policy: parsed.spec.restart_policy,
        mode: parsed.spec.mode,
    })
}

/// How a job ended, if it does so in time.
async fn outcome(door: &Door, n: u32, job: u32, limit: Duration) -> Option<Outcome> {
    if limit.is_zero() {
        return None;
    }
    let wait = async {
        loop {
            match door.with(n, |agent, now| agent.progress(job, now)) {
                Progress::Done(outcome) => return outcome,
                Progress::Until(at) => until(door, at).await,
            }
        }
    };
    tokio::time::timeout(limit, wait).await.ok()
}

/// Waits for a moment of the agents' time, and a little longer: timers are coarse.
async fn until(door: &Door, at: Micros) {
    let left = at.saturating_sub(door.fleet.now());
    if left > 0 {
        tokio::time::sleep(Duration::from_micros(left)).await;
    }
}
