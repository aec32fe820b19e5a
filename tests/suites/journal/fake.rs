//! Agents that this test plays: one listener for any number of computes, which writes down every call in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use pgfleet_api::agent::{AgentStatus, ComputeState, ConfigureRequest};
use pgfleet_api::{BootId, ComputeId};
use pgfleet_domain::fence::{LedgerRecord, Verdict, admit};
use tokio::task::JoinSet;

/// The agents.
pub struct Fake {
    url: String,
    world: Arc<World>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct World {
    /// Whether pushes are answered with an error.
    fails: AtomicBool,
    /// Whether probes are answered with an error.
    fails_probes: AtomicBool,
    calls: Mutex<Vec<(&'static str, String)>>,
    ledgers: Mutex<BTreeMap<String, (BootId, Option<LedgerRecord>)>>,
}

impl Fake {
    pub async fn start() -> Self {
        let world = Arc::new(World::default());
        let router = Router::new()
            .route("/{id}/status", get(status))
            .route("/{id}/configure", post(configure))
            .with_state(Arc::clone(&world));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(listener, router).await) });
        Self { url, world, _server: server }
    }

    pub fn url(&self, id: &ComputeId) -> String {
        format!("{}/{id}", self.url)
    }

    /// From now on pushes fail, or do not.
    pub fn fails(&self, fails: bool) {
        self.world.fails.store(fails, Ordering::SeqCst);
    }

    /// From now on probes fail, or do not.
    pub fn fails_probes(&self, fails: bool) {
        self.world.fails_probes.store(fails, Ordering::SeqCst);
    }

    /// Takes the calls since the last time, in order.
    pub fn take_calls(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut *self.world.calls.lock().unwrap())
    }

    pub fn has_calls(&self) -> bool {
        !self.world.calls.lock().unwrap().is_empty()
    }
}

impl World {
    fn says(&self, id: &str) -> AgentStatus {
        let mut ledgers = self.ledgers.lock().unwrap();
        let (boot_id, ledger) = ledgers.entry(id.to_owned()).or_insert_with(|| (BootId::generate(), None));
        let generation = ledger.as_ref().map(|record| record.generation);
        AgentStatus {
            status: if ledger.is_some() { ComputeState::Running } else { ComputeState::Empty },
            status_seq: 1 + generation.map_or(0, |generation| generation.get().unsigned_abs()),
            term: ledger.as_ref().map(|record| record.term),
            generation,
            applied_generation: generation,
            spec_hash: ledger.as_ref().map(|record| record.spec_hash.clone()),
            ..AgentStatus::new(id.parse().unwrap(), *boot_id, chrono::DateTime::UNIX_EPOCH)
        }
    }
}

async fn status(State(world): State<Arc<World>>, Path(id): Path<String>) -> Result<Json<AgentStatus>, StatusCode> {
    world.calls.lock().unwrap().push(("probe", id.clone()));
    if world.fails_probes.load(Ordering::SeqCst) {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    Ok(Json(world.says(&id)))
}

async fn configure(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Json(request): Json<ConfigureRequest>,
) -> Result<(StatusCode, Json<AgentStatus>), StatusCode> {
    world.calls.lock().unwrap().push(("push", id.clone()));
    if world.fails.load(Ordering::SeqCst) {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    world.says(&id);
    let verdict = {
        let mut ledgers = world.ledgers.lock().unwrap();
        let (_, ledger) = ledgers.get_mut(&id).unwrap();
        let admission = admit(&id.parse().unwrap(), ledger.as_ref(), &request.fence.unwrap());
        *ledger = admission.record.or(ledger.take());
        admission.verdict
    };
    match verdict {
        Verdict::Accept | Verdict::AlreadyAccepted => Ok((StatusCode::ACCEPTED, Json(world.says(&id)))),
        Verdict::Refuse(_) => Err(StatusCode::CONFLICT),
    }
}
