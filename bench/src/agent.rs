//! Agents that only promise: one listener that plays `compute_ctl` for every compute of the load.
//!
//! A compute whose agent does not exist would make the engine back off and try again, which is not what is measured. These
//! agents judge a fence by the real rule (`domain::fence::admit`), keep the record in memory, and say at once that they run
//! what they accepted. What the rule refuses as stale is counted: a leader that acts after its term shows here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use http::StatusCode;
use pgfleet_api::agent::{AgentErrorBody, AgentStatus, ComputeState, ConfigureRequest};
use pgfleet_api::{BootId, ComputeId, ErrorBody, ErrorCode};
use pgfleet_domain::fence::{LedgerRecord, Refusal, Verdict, admit};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The agents of the load.
#[derive(Debug)]
pub struct Agents {
    url: String,
    fleet: Arc<Simulated>,
    _server: JoinSet<()>,
}

#[derive(Debug)]
struct Simulated {
    started: DateTime<Utc>,
    computes: Mutex<BTreeMap<ComputeId, One>>,
    stale: AtomicUsize,
}

#[derive(Debug)]
struct One {
    boot_id: BootId,
    status_seq: u64,
    ledger: Option<LedgerRecord>,
}

impl Agents {
    /// Starts to listen.
    pub async fn start() -> Self {
        let fleet = Arc::new(Simulated { started: Utc::now(), computes: Mutex::default(), stale: AtomicUsize::new(0) });
        let router = Router::new()
            .route("/{compute_id}/status", get(status))
            .route("/{compute_id}/configure", post(configure))
            .with_state(fleet.clone());
        let socket = TcpListener::bind("127.0.0.1:0").await;
        let socket = socket.unwrap_or_else(|error| panic!("the agents cannot listen: {error}"));
        let address = socket.local_addr().unwrap_or_else(|error| panic!("the agents cannot listen: {error}"));
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(socket, router).await) });
        Self { url: format!("http://{address}"), fleet, _server: server }
    }

    /// Base URL of the agent of this compute.
    #[must_use]
    pub fn url(&self, compute: &ComputeId) -> String {
        format!("{}/{compute}", self.url)
    }

    /// How many pushes came from a term that had ended.
    #[must_use]
    pub fn stale_pushes(&self) -> usize {
        self.fleet.stale.load(Ordering::Relaxed)
    }
}

type Refused = (StatusCode, Json<Box<AgentErrorBody>>);

async fn status(
    State(fleet): State<Arc<Simulated>>,
    Path(compute): Path<String>,
) -> Result<Json<AgentStatus>, Refused> {
    let id = known(&compute)?;
    Ok(Json(fleet.with(&id, |one| fleet.says(&id, one))))
}

async fn configure(
    State(fleet): State<Arc<Simulated>>,
    Path(compute): Path<String>,
    Json(request): Json<ConfigureRequest>,
) -> Result<(StatusCode, Json<AgentStatus>), Refused> {
    let id = known(&compute)?;
    let Some(fence) = request.fence else {
        return Err(refused(ErrorCode::FenceRequired, "a controller's push carries a fence", None));
    };
    fleet.with(&id, |one| {
        let admission = admit(&id, one.ledger.as_ref(), &fence);
        if let Some(record) = admission.record {
            one.ledger = Some(record);
            one.status_seq += 1;
        }
        match admission.verdict {
            Verdict::Accept | Verdict::AlreadyAccepted => Ok((StatusCode::ACCEPTED, Json(fleet.says(&id, one)))),
            Verdict::Refuse(refusal) => {
                let code = code(refusal);
                if code == ErrorCode::StaleTerm {
                    fleet.stale.fetch_add(1, Ordering::Relaxed);
                }
                Err(refused(code, "the ledger refuses", one.ledger.as_ref()))
            }
        }
    })
}

impl Simulated {
    fn with<T>(&self, id: &ComputeId, act: impl FnOnce(&mut One) -> T) -> T {
        let mut computes = self.computes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || One { boot_id: BootId::generate(), status_seq: 1, ledger: None };
        act(computes.entry(id.clone()).or_insert_with(new))
    }

    fn says(&self, id: &ComputeId, one: &One) -> AgentStatus {
        let ledger = one.ledger.as_ref();
        AgentStatus {
            status: if ledger.is_some() { ComputeState::Running } else { ComputeState::Empty },
            status_seq: one.status_seq,
            term: ledger.map(|ledger| ledger.term),
            generation: ledger.map(|ledger| ledger.generation),
            applied_generation: ledger.map(|ledger| ledger.generation),
            spec_hash: ledger.map(|ledger| ledger.spec_hash.clone()),
            ..AgentStatus::new(id.clone(), one.boot_id, self.started)
        }
    }
}

fn known(compute: &str) -> Result<ComputeId, Refused> {
    compute.parse().map_err(|_| refused(ErrorCode::InvalidRequest, "no compute id", None))
}

fn code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::ForeignCluster => ErrorCode::ForeignCluster,
        Refusal::WrongCompute => ErrorCode::WrongCompute,
        Refusal::StaleTerm => ErrorCode::StaleTerm,
        Refusal::StaleGeneration => ErrorCode::StaleGeneration,
        Refusal::Conflict => ErrorCode::FenceConflict,
    }
}

fn refused(code: ErrorCode, msg: &str, ledger: Option<&LedgerRecord>) -> Refused {
    let body = ErrorBody { highest: ledger.map(LedgerRecord::mark), ..ErrorBody::new(code, msg) };
    (StatusCode::CONFLICT, Json(Box::new(AgentErrorBody { error: msg.to_owned(), body })))
}
