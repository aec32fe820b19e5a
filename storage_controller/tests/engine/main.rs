//! The engine of a real controller on a real PostgreSQL, against agents that this test plays: they keep the ledger's rule
//! and can be told to hang or to fail.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod fairness;
mod fleet;
mod outage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use pgfleet_api::agent::{AgentStatus, ComputeState, ConfigureRequest, PortFile};
use pgfleet_api::compute::{RegisterCompute, WaitOutcome};
use pgfleet_api::{BootId, ComputeId, InstanceId};
use pgfleet_clients::controller::{ControllerClient, Options};
use pgfleet_clients::peer::{Identity, PeerClient};
use pgfleet_clients::token::Source;
use pgfleet_domain::fence::{LedgerRecord, Verdict, admit};
use pgfleet_harness::postgres;
use pgfleet_harness::wait::{wait_for, wait_until};
use serde_json::json;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// A controller process; killed when dropped.
struct Controller {
    process: Child,
    address: String,
    _files: Files,
}

struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Controller {
    async fn start(url: &str, args: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("pgfleet-engine-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let port_file = dir.join("port.json");
        let process = Command::new(env!("CARGO_BIN_EXE_storage_controller"))
            .args(["--dev", "--listen", "127.0.0.1:0", "--database-url", url, "--port-file"])
            .arg(&port_file)
            .args(args)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port = wait_for("the port file", PATIENCE, async || port_of(&port_file)).await;
        let controller = Self { process, address: format!("http://127.0.0.1:{port}"), _files: Files(dir) };
        let client = controller.client();
        wait_until("the controller leads", PATIENCE, async || client.ready(&controller.address).await).await;
        controller
    }

    fn client(&self) -> ControllerClient {
        ControllerClient::new(vec![self.address.clone()], Source::Anonymous, Options::default()).unwrap()
    }

    async fn metrics(&self) -> String {
        self.client().metrics(&self.address).await.unwrap()
    }

    /// The value of a metric on a page; with its labels if it has some.
    fn metric(&self, page: &str, name: &str) -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not on the page of {}", self.address)).parse().unwrap()
    }

    async fn metric_becomes(&self, name: &str, patience: Duration, is_it: impl Fn(f64) -> bool) {
        wait_until(name, patience, async || is_it(self.metric(&self.metrics().await, name))).await;
    }

    fn peer(&self) -> PeerClient {
        let identity =
            Identity { instance_id: InstanceId::generate(), address: "http://127.0.0.1:1".into(), version: "t".into() };
        PeerClient::new(identity, Source::Anonymous).unwrap()
    }
}

fn port_of(file: &Path) -> Option<u16> {
    let content: PortFile = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    content.ports.get("http").copied()
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Good,
    Failing,
    Hanging,
}

/// An agent as the controller sees one.
struct Agent {
    id: ComputeId,
    manner: Manner,
    pushes: AtomicUsize,
    ledger: Mutex<Option<LedgerRecord>>,
    boot_id: BootId,
}

impl Agent {
    fn new(id: &str, manner: Manner) -> Self {
        Self {
            id: id.parse().unwrap(),
            manner,
            pushes: AtomicUsize::new(0),
            ledger: Mutex::new(None),
            boot_id: BootId::generate(),
        }
    }

    async fn start(id: &str, manner: Manner) -> (Arc<Self>, String) {
        let agent = Arc::new(Self::new(id, manner));
        let router = Router::new()
            .route("/status", get(async |State(agent): State<Arc<Agent>>| Json(agent.status())))
            .route("/configure", post(configure))
            .with_state(agent.clone());
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        server.detach_all();
        (agent, url)
    }

    fn status(&self) -> AgentStatus {
        let ledger = self.ledger.lock().unwrap().clone();
        let generation = ledger.as_ref().map(|record| record.generation);
        AgentStatus {
            status: if ledger.is_some() { ComputeState::Running } else { ComputeState::Empty },
            status_seq: u64::try_from(generation.map_or(0, |generation| generation.get())).unwrap(),
            term: ledger.as_ref().map(|record| record.term),
            generation,
            applied_generation: generation,
            spec_hash: ledger.map(|record| record.spec_hash),
            ..AgentStatus::new(self.id.clone(), self.boot_id, chrono::DateTime::UNIX_EPOCH)
        }
    }
}

async fn configure(
    State(agent): State<Arc<Agent>>,
    Json(body): Json<ConfigureRequest>,
) -> Result<(StatusCode, Json<AgentStatus>), StatusCode> {
    agent.pushes.fetch_add(1, Ordering::SeqCst);
    match agent.manner {
        Manner::Hanging => std::future::pending().await,
        Manner::Failing => Err(StatusCode::INTERNAL_SERVER_ERROR),
        Manner::Good => {
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
    }
}

/// A spec; another mark makes another one.
fn marked(mark: u64) -> serde_json::Value {
    let cluster = json!({"roles": [], "databases": [], "name": mark.to_string()});
    json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": cluster})
}

fn registration(url: String) -> RegisterCompute {
    RegisterCompute { agent_url: url, labels: [].into(), spec: Some(marked(0)) }
}

async fn database(test: &str) -> Option<(postgres::Cluster, String)> {
    postgres::bin_dir_or_skip(test)?;
    let cluster = postgres::Cluster::start(postgres::Options::default()).await.unwrap();
    let url = cluster.create_database("engine").await.unwrap();
    Some((cluster, url))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_does_not_hold_a_step_down() {
    let Some((_cluster, url)) = database("a_call_in_flight_does_not_hold_a_step_down").await else { return };
    let controller = Controller::start(&url, &["--probe-max", "200ms"]).await;
    let (agent, agent_url) = Agent::start("hangs", Manner::Hanging).await;
    controller.client().register(&agent.id, &registration(agent_url)).await.unwrap();
    wait_until("the push hangs", PATIENCE, async || agent.pushes.load(Ordering::SeqCst) > 0).await;
    let answer = controller.peer().step_down(&controller.address, None, Duration::from_secs(10)).await.unwrap();
    assert!(answer.complete, "the hanging push was not cancelled within the grace");
    let again = controller.peer().step_down(&controller.address, None, Duration::from_secs(10)).await.unwrap();
    assert_eq!(again, answer, "a repeated call returns the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_always_fails_starves_nobody_and_backs_off() {
    let Some((_cluster, url)) = database("one_that_always_fails_starves_nobody_and_backs_off").await else { return };
    let controller = Controller::start(&url, &["--probe-max", "200ms"]).await;
    let client = controller.client();
    let (bad, bad_url) = Agent::start("bad", Manner::Failing).await;
    client.register(&bad.id, &registration(bad_url)).await.unwrap();
    let mut good = Vec::new();
    for n in 0..8 {
        let (agent, url) = Agent::start(&format!("good-{n}"), Manner::Good).await;
        client.register(&agent.id, &registration(url)).await.unwrap();
        good.push(agent);
    }
    for agent in &good {
        let result = client.wait(&agent.id, None, Duration::from_secs(10)).await.unwrap();
        assert_eq!(result.outcome, WaitOutcome::Applied, "{}", agent.id);
    }
    // Doubling from 100 ms, with half of it jitter: the sixth try comes after 1.5 s at the earliest.
    let begun = Instant::now();
    wait_until("a few tries", PATIENCE, async || bad.pushes.load(Ordering::SeqCst) >= 6).await;
    assert!(begun.elapsed() > Duration::from_millis(700), "six tries in {:?}", begun.elapsed());
    let view = client.get(&bad.id).await.unwrap();
    let said = view.last_error.expect("probes that succeed do not hide pushes that fail");
    assert!(said.contains("no usable answer"), "{said}");
    assert!(good.iter().all(|agent| agent.pushes.load(Ordering::SeqCst) == 1), "a converged compute rests");
}
