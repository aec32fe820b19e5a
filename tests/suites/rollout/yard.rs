//! A yard of agents that this suite plays: they keep the ledger's rule, take a while to apply a spec, may dislike one, and
//! are counted while they are busy with it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
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
use pgfleet_harness::specs::marked;
use serde_json::Value;

/// All agents of a test.
pub struct Yard {
    pub agents: Vec<Arc<Agent>>,
    busy: Arc<Busy>,
}

/// How many are at work on a spec, now and at most. First specs do not count.
#[derive(Default)]
struct Busy {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One agent.
pub struct Agent {
    pub id: ComputeId,
    url: String,
    boot_id: BootId,
    busy: Arc<Busy>,
    takes: Duration,
    mind: Mutex<Mind>,
}

#[derive(Default)]
struct Mind {
    ledger: Option<LedgerRecord>,
    spec: Value,
    applied: Option<Generation>,
    rejected: Option<Generation>,
    seq: u64,
    /// It gives a spec up that has this setting.
    dislikes: Option<String>,
    /// It is never done with a spec that has this setting.
    hangs_on: Option<String>,
}

fn has_setting(spec: &Value, name: &Option<String>) -> bool {
    let Some(name) = name else { return false };
    spec["cluster"]["settings"].as_array().into_iter().flatten().any(|entry| entry["name"] == name.as_str())
}

impl Yard {
    /// Agents `c00`, `c01`, …, each of which takes this long to apply a spec, registered with a first one.
    pub async fn open(count: usize, takes: Duration, client: &ControllerClient) -> Self {
        let busy = Arc::new(Busy::default());
        let mut agents = Vec::with_capacity(count);
        for number in 0..count {
            let agent = Agent::start(&format!("c{number:02}"), takes, busy.clone()).await;
            let labels = [("tier".to_owned(), "gold".to_owned())].into();
            let body = RegisterCompute { agent_url: agent.url.clone(), labels, spec: Some(marked("one")) };
            client.register(&agent.id, &body).await.unwrap();
            agents.push(agent);
        }
        for agent in &agents {
            let result = client.wait(&agent.id, None, Duration::from_secs(30)).await.unwrap();
            assert_eq!(result.outcome, pgfleet_api::compute::WaitOutcome::Applied, "{}", agent.id);
        }
        Self { agents, busy }
    }

    /// The most that were at work on a later spec at one time.
    pub fn most_at_once(&self) -> usize {
        self.busy.most.load(Ordering::SeqCst)
    }

    /// The generation of each.
    pub fn generations(&self) -> Vec<i64> {
        self.agents.iter().map(|agent| agent.generation()).collect()
    }

    /// The ids of those that have a setting.
    pub fn with_setting(&self, name: &str) -> Vec<String> {
        let has = |agent: &&Arc<Agent>| has_setting(&agent.mind.lock().unwrap().spec, &Some(name.to_owned()));
        self.agents.iter().filter(has).map(|agent| agent.id.to_string()).collect()
    }
}

impl Agent {
    async fn start(id: &str, takes: Duration, busy: Arc<Busy>) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (boot_id, mind) = (BootId::generate(), Mutex::default());
        let agent = Arc::new(Self { id: id.parse().unwrap(), url, boot_id, busy, takes, mind });
        let router =
            Router::new().route("/status", get(status)).route("/configure", post(configure)).with_state(agent.clone());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        server.detach_all();
        agent
    }

    /// It gives up every spec with this setting.
    pub fn dislikes(&self, setting: &str) {
        self.mind.lock().unwrap().dislikes = Some(setting.to_owned());
    }

    /// It is never done with a spec that has this setting.
    pub fn hangs_on(&self, setting: &str) {
        self.mind.lock().unwrap().hangs_on = Some(setting.to_owned());
    }

    pub fn generation(&self) -> i64 {
        self.mind.lock().unwrap().ledger.as_ref().map_or(0, |record| record.generation.get())
    }

    fn status(&self) -> AgentStatus {
        let mind = self.mind.lock().unwrap();
        let ledger = mind.ledger.as_ref();
        let generation = ledger.map(|record| record.generation);
        let settled = generation.is_none() || mind.applied == generation || mind.rejected == generation;
        AgentStatus {
            status: match (generation, settled) {
                (None, _) => ComputeState::Empty,
                (Some(_), true) => ComputeState::Running,
                (Some(_), false) => ComputeState::Configuration,
            },
            status_seq: mind.seq,
            term: ledger.map(|record| record.term),
            generation,
            applied_generation: mind.applied,
            rejected_generation: mind.rejected,
            spec_hash: ledger.map(|record| record.spec_hash.clone()),
            error: mind.rejected.map(|_| "this agent dislikes it".to_owned()),
            ..AgentStatus::new(self.id.clone(), self.boot_id, chrono::DateTime::UNIX_EPOCH)
        }
    }

    /// Works on a generation for a while.
    async fn apply(self: Arc<Self>, generation: Generation) {
        let later = generation.get() > 1;
        if later {
            let now = self.busy.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.busy.most.fetch_max(now, Ordering::SeqCst);
            // The time that the work takes is what is tested.
            tokio::time::sleep(self.takes).await;
        }
        let mut mind = self.mind.lock().unwrap();
        if later {
            self.busy.now.fetch_sub(1, Ordering::SeqCst);
        }
        mind.seq += 1;
        if has_setting(&mind.spec, &mind.hangs_on) {
        } else if has_setting(&mind.spec, &mind.dislikes) {
            mind.rejected = Some(generation);
        } else {
            mind.applied = Some(generation);
            mind.rejected = None;
        }
    }
}

async fn status(State(agent): State<Arc<Agent>>) -> Json<AgentStatus> {
    Json(agent.status())
}

async fn configure(
    State(agent): State<Arc<Agent>>,
    Json(body): Json<ConfigureRequest>,
) -> Result<(StatusCode, Json<AgentStatus>), StatusCode> {
    let fence = body.fence.expect("a controller always sends a fence");
    let verdict = {
        let mut mind = agent.mind.lock().unwrap();
        let admission = admit(&agent.id, mind.ledger.as_ref(), &fence);
        mind.ledger = admission.record.or(mind.ledger.take());
        if admission.verdict == Verdict::Accept {
            mind.seq += 1;
            mind.spec = body.spec;
        }
        admission.verdict
    };
    match verdict {
        Verdict::Accept => {
            let mut work = tokio::task::JoinSet::new();
            work.spawn(agent.clone().apply(fence.generation));
            work.detach_all();
            Ok((StatusCode::ACCEPTED, Json(agent.status())))
        }
        Verdict::AlreadyAccepted => Ok((StatusCode::ACCEPTED, Json(agent.status()))),
        Verdict::Refuse(_) => Err(StatusCode::CONFLICT),
    }
}
