//! Agents that this suite plays: they keep the ledger's rule, count what reaches them, and can be told to hang.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use pgfleet_api::agent::{AgentStatus, ComputeState, ConfigureRequest};
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::{BootId, ComputeId, Generation};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_domain::fence::{LedgerRecord, Verdict, admit};
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::{stays, wait_until};

/// How long a test looks whether nothing comes: several probes and tries.
const QUIET: Duration = Duration::from_millis(700);

/// An agent as the controller sees one.
pub struct Agent {
    /// The compute it would own.
    pub id: ComputeId,
    /// Its base URL.
    pub url: String,
    pushes: AtomicUsize,
    probes: AtomicUsize,
    hangs_on_push: AtomicBool,
    hangs_on_probe: AtomicBool,
    restarts: AtomicUsize,
    ledger: Mutex<Option<LedgerRecord>>,
    boot_id: BootId,
}

impl Agent {
    /// Listens on a port of its own.
    pub async fn start(id: &str) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let agent = Arc::new(Self {
            id: id.parse().unwrap(),
            url: format!("http://{}", listener.local_addr().unwrap()),
            pushes: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            hangs_on_push: AtomicBool::new(false),
            hangs_on_probe: AtomicBool::new(false),
            restarts: AtomicUsize::new(0),
            ledger: Mutex::new(None),
            boot_id: BootId::generate(),
        });
        let router =
            Router::new().route("/status", get(status)).route("/configure", post(configure)).with_state(agent.clone());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        server.detach_all();
        agent
    }

    /// Pushes and probes that reached it.
    pub fn calls(&self) -> (usize, usize) {
        (self.pushes.load(Ordering::SeqCst), self.probes.load(Ordering::SeqCst))
    }

    /// The generation in its ledger.
    pub fn generation(&self) -> i64 {
        self.ledger.lock().unwrap().as_ref().map_or(0, |record| record.generation.get())
    }

    /// Takes specs and never answers.
    pub fn hang_on_push(&self) {
        self.hangs_on_push.store(true, Ordering::SeqCst);
    }

    /// Is asked for its status and never answers.
    pub fn hang_on_probe(&self) {
        self.hangs_on_probe.store(true, Ordering::SeqCst);
    }

    /// What it reports changes, without anybody's push.
    pub fn change(&self) {
        self.restarts.fetch_add(1, Ordering::SeqCst);
    }

    /// Registers its compute with a spec.
    pub async fn register(&self, client: &ControllerClient) {
        let body =
            RegisterCompute { agent_url: self.url.clone(), labels: Default::default(), spec: Some(marked("one")) };
        client.register(&self.id, &body).await.unwrap();
    }

    /// Waits until it has accepted this generation.
    pub async fn has(&self, generation: i64) {
        let what = format!("{} has generation {generation}", self.id);
        wait_until(&what, PATIENCE, async || self.generation() >= generation).await;
    }

    /// Nothing reaches it any more.
    pub async fn is_left_alone(&self, why: &str) {
        let before = self.calls();
        stays(&format!("nobody calls {} {why}", self.id), QUIET, async || self.calls() == before).await;
    }

    fn status(&self) -> AgentStatus {
        let ledger = self.ledger.lock().unwrap().clone();
        let generation = ledger.as_ref().map(|record| record.generation);
        let changes = self.restarts.load(Ordering::SeqCst);
        let seq = generation.map_or(0, Generation::get) * 1000 + i64::try_from(changes).unwrap();
        AgentStatus {
            status: if ledger.is_some() { ComputeState::Running } else { ComputeState::Empty },
            status_seq: u64::try_from(seq).unwrap(),
            term: ledger.as_ref().map(|record| record.term),
            generation,
            applied_generation: generation,
            spec_hash: ledger.map(|record| record.spec_hash),
            ..AgentStatus::new(self.id.clone(), self.boot_id, chrono::DateTime::UNIX_EPOCH)
        }
    }
}

async fn status(State(agent): State<Arc<Agent>>) -> Json<AgentStatus> {
    agent.probes.fetch_add(1, Ordering::SeqCst);
    if agent.hangs_on_probe.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    Json(agent.status())
}

async fn configure(
    State(agent): State<Arc<Agent>>,
    Json(body): Json<ConfigureRequest>,
) -> Result<(StatusCode, Json<AgentStatus>), StatusCode> {
    agent.pushes.fetch_add(1, Ordering::SeqCst);
    if agent.hangs_on_push.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let fence = body.fence.expect("a controller always sends a fence");
    let mut ledger = agent.ledger.lock().unwrap();
    let admission = admit(&agent.id, ledger.as_ref(), &fence);
    *ledger = admission.record.or(ledger.take());
    drop(ledger);
    match admission.verdict {
        Verdict::Accept | Verdict::AlreadyAccepted => Ok((StatusCode::ACCEPTED, Json(agent.status()))),
        Verdict::Refuse(_) => Err(StatusCode::CONFLICT),
    }
}
