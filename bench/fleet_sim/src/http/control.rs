//! The control door, on an address of its own: the script, the counters, the agents' states.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use pgfleet_api::agent::ComputeState;
use pgfleet_api::{ErrorCode, Generation};
use pgfleet_runtime::http::{ApiError, JsonBody, Layers, finish};
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, CODES, Micros};
use crate::fleet::Fleet;
use crate::script::Script;

/// `GET /sim/counters`. Since the last reset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// When counting began, in milliseconds since 1970.
    pub since_unix_ms: i64,
    /// Connections, of all agents.
    pub connections: Connections,
    /// What the agents asked about were asked.
    pub range: Range,
}

/// Connections to the agents' listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Open now.
    pub now: u64,
    /// Most that were open at once.
    pub most: u64,
    /// Accepted.
    pub ever: u64,
    /// Of these, reset at once because their agent was away.
    pub turned_away: u64,
    /// Reset by the script instead of an answer.
    pub cut: u64,
    /// Closed while idle because descriptors were scarce.
    pub given_up: u64,
    /// Most that were accepted in one second.
    pub most_per_second: u32,
    /// Accepted in each second since counting began, the last 600.
    pub per_second: Vec<u32>,
}

/// What agents `from..to` were asked, summed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Range {
    /// The first agent.
    pub from: u32,
    /// The first one behind.
    pub to: u32,
    /// Connections accepted.
    pub connects: u64,
    /// `GET /status`.
    pub probes: u64,
    /// Specs that arrived.
    pub pushes: u64,
    /// Specs that were taken anew.
    pub accepted: u64,
    /// Specs that had been taken before.
    pub repeated: u64,
    /// Refusals by code; codes that no agent refused with are left out.
    pub refused: BTreeMap<String, u64>,
    /// `POST /plan`.
    pub plans: u64,
    /// `POST /terminate`.
    pub terminations: u64,
    /// Specs in effect.
    pub applied: u64,
    /// Specs that could not be applied.
    pub failed: u64,
    /// Agents that run the generation they accepted last.
    pub settled: u32,
    /// Agents by state.
    pub states: BTreeMap<String, u32>,
    /// The first push, in milliseconds since 1970.
    pub first_push_unix_ms: Option<i64>,
    /// The last push.
    pub last_push_unix_ms: Option<i64>,
    /// When a spec was in effect last.
    pub last_applied_unix_ms: Option<i64>,
}

/// One agent, in the answer of `GET /sim/agents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLine {
    /// Its number.
    pub n: u32,
    /// Its state.
    pub state: ComputeState,
    /// Highest generation accepted.
    pub generation: Option<Generation>,
    /// Last generation in effect.
    pub applied: Option<Generation>,
    /// Pushes that arrived.
    pub pushes: u32,
    /// Whether the script has every application fail here.
    pub fails: bool,
    /// Whether the script has it slower than its group.
    pub slow: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    from: u32,
    to: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    #[serde(default)]
    forget: bool,
}

/// The routes that steer and count.
pub fn control(fleet: &Arc<Fleet>, layers: Layers) -> Router {
    let router = Router::new()
        .route("/sim/counters", get(counters))
        .route("/sim/agents", get(agents))
        .route("/sim/script", get(playing).put(play))
        .route("/sim/reset", post(reset))
        .route("/sim/restart", post(restart))
        .with_state(Arc::clone(fleet));
    finish(router, layers)
}

fn bad_query(error: &QueryRejection) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, error.body_text())
}

/// The agents that are asked about.
fn which(fleet: &Fleet, which: Result<Query<Which>, QueryRejection>) -> Result<(u32, u32), ApiError> {
    let Query(which) = which.map_err(|error| bad_query(&error))?;
    let to = which.to.unwrap_or(fleet.size()).min(fleet.size());
    Ok((which.from.min(to), to))
}

async fn counters(
    State(fleet): State<Arc<Fleet>>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Counters>, ApiError> {
    let (from, to) = which(&fleet, query)?;
    let mut range = Range { from, to, ..Range::default() };
    let (mut first, mut last, mut applied) = (0, 0, 0);
    for n in from..to {
        let now = fleet.now();
        let Some(mut agent) = fleet.agent(n) else { break };
        agent.advance(now);
        range.add(&agent);
        let tally = &agent.tally;
        first =
            if first == 0 || tally.first_push == 0 { first.max(tally.first_push) } else { first.min(tally.first_push) };
        last = last.max(tally.last_push);
        applied = applied.max(tally.last_applied);
    }
    let unix_ms = |at: Micros| (at > 0).then(|| fleet.unix_ms(at));
    (range.first_push_unix_ms, range.last_push_unix_ms) = (unix_ms(first), unix_ms(last));
    range.last_applied_unix_ms = unix_ms(applied);
    let counts = fleet.connections.snapshot();
    let connections = Connections {
        now: counts.now,
        most: counts.most,
        ever: counts.ever,
        turned_away: counts.turned_away,
        cut: counts.cut,
        given_up: counts.given_up,
        most_per_second: counts.most_per_second,
        per_second: counts.per_second,
    };
    Ok(Json(Counters { since_unix_ms: fleet.unix_ms(fleet.counted_since()), connections, range }))
}

impl Range {
    fn add(&mut self, agent: &Agent) {
        let tally = &agent.tally;
        self.connects += u64::from(tally.connects);
        self.probes += u64::from(tally.probes);
        self.pushes += u64::from(tally.pushes);
        self.accepted += u64::from(tally.accepted);
        self.repeated += u64::from(tally.repeated);
        self.plans += u64::from(tally.plans);
        self.terminations += u64::from(tally.terminations);
        self.applied += u64::from(tally.applied);
        self.failed += u64::from(tally.failed);
        for (code, count) in CODES.iter().zip(tally.refused).filter(|(_, count)| *count > 0) {
            *self.refused.entry(name(*code)).or_default() += u64::from(count);
        }
        let (generation, applied) = agent.generations();
        if agent.state() == ComputeState::Running && generation.is_some() && applied == generation {
            self.settled += 1;
        }
        *self.states.entry(agent.state().as_str().to_owned()).or_default() += 1;
    }
}

/// A code's name on the wire.
fn name(code: ErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

async fn agents(
    State(fleet): State<Arc<Fleet>>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Vec<AgentLine>>, ApiError> {
    let (from, to) = which(&fleet, query)?;
    let playing = fleet.playing();
    let line = |n: u32| {
        let now = fleet.now();
        let mut agent = fleet.agent(n)?;
        agent.advance(now);
        let (generation, applied) = agent.generations();
        let role = playing.script.of(n);
        let (fails, slow) = (role.fails(), role.is_slow());
        Some(AgentLine { n, state: agent.state(), generation, applied, pushes: agent.tally.pushes, fails, slow })
    };
    Ok(Json((from..to).filter_map(line).collect()))
}

async fn playing(State(fleet): State<Arc<Fleet>>) -> Json<Script> {
    Json((*fleet.playing().script).clone())
}

async fn play(State(fleet): State<Arc<Fleet>>, JsonBody(script): JsonBody<Script>) -> Result<Json<Script>, ApiError> {
    script.check().map_err(|error| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidBody, error.msg).at(error.path)
    })?;
    fleet.play(script.clone());
    Ok(Json(script))
}

async fn reset(State(fleet): State<Arc<Fleet>>, how: Result<Query<How>, QueryRejection>) -> Result<(), ApiError> {
    let Query(How { forget }) = how.map_err(|error| bad_query(&error))?;
    fleet.reset(forget);
    Ok(())
}

async fn restart(State(fleet): State<Arc<Fleet>>, query: Result<Query<Which>, QueryRejection>) -> Result<(), ApiError> {
    let (from, to) = which(&fleet, query)?;
    fleet.restart(from, to);
    Ok(())
}
