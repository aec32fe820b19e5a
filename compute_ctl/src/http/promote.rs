//! `POST /promote`: makes a replica a primary that follows the spec in the body.
//!
//! 200 when it takes writes and the spec is in effect, 500 where it did not come to that, 202 where it takes longer than the
//! call waits (`?timeout_s=`, `Prefer: respond-async`); always with how far it is. Fences are judged as in `/configure`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::{HeaderMap, StatusCode};
use pgfleet_api::agent::{AgentStatus, PromoteRequest, PromoteState, PromoteStatus};
use pgfleet_runtime::http::{ApiError, JsonBody};

use super::Door;
use super::answer::refused;
use super::configure::{Wait, below_spec, limit};
use crate::lifecycle::{Configure, Origin, Outcome, Refusal};

pub(super) async fn post(
    State(door): State<Door>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<PromoteRequest>,
) -> Result<(StatusCode, Json<PromoteState>), ApiError> {
    let limit = limit(wait, &headers)?;
    let configure = Configure { spec: body.spec, fence: body.fence, origin: Origin::Promote(body.wal_flush_lsn) };
    let admitted = door.handle.configure(configure).await.map_err(refused).map_err(below_spec)?;
    let Some(outcome) = admitted.outcome else {
        return Ok(answer(settled(&door.handle.status(), door.handle.promotion())));
    };
    let state = match tokio::time::timeout(limit, outcome).await.map(|sent| sent.unwrap_or(Outcome::Ended)) {
        Ok(Outcome::Applied | Outcome::Failed) => door.handle.promotion(),
        Ok(Outcome::Superseded) => failed("a later spec took its place before it was begun"),
        Ok(Outcome::Ended) => return Err(refused(Refusal::Ending(door.handle.status().status))),
        Err(_) => return Ok((StatusCode::ACCEPTED, Json(door.handle.promotion()))),
    };
    Ok(answer(state))
}

/// A promotion that was asked for before, perhaps of an earlier life of the agent.
fn settled(status: &AgentStatus, last: PromoteState) -> PromoteState {
    if status.applied_generation == status.generation {
        PromoteState { status: PromoteStatus::Completed, error: None, ..last }
    } else {
        failed(status.error.as_deref().unwrap_or("the spec was given up; send another"))
    }
}

fn failed(why: &str) -> PromoteState {
    PromoteState { status: PromoteStatus::Failed, error: Some(why.to_owned()), ..PromoteState::default() }
}

fn answer(state: PromoteState) -> (StatusCode, Json<PromoteState>) {
    let code = match state.status {
        PromoteStatus::Completed => StatusCode::OK,
        PromoteStatus::NotPromoted | PromoteStatus::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, Json(state))
}
