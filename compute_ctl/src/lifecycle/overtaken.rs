//! A start that ends when a newer spec waits already: what it shows is the fault of the spec it was begun with.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::agent::{AgentStatus, ErrorDetail, PostgresInfo};
use pgfleet_api::{BootId, ComputeId, Fence, Generation, Term};
use pgfleet_domain::spec::{parse, spec_hash};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::body::{Body, Fetched, Look};
use super::driver::{Driver, Options, Pace, RestartPostgres};
use super::handle::{Configure, Handle, Origin, Outcome, Refusal};
use super::work::{Done, Effect, Failure, Prepared, Stop, Task};
use crate::ledger::Ledger;

type Ended = Result<Effect, Failure>;

/// A body whose works end as the test says, one after the other.
#[derive(Clone)]
struct Scripted {
    ends: Arc<Mutex<mpsc::Receiver<Ended>>>,
    begun: watch::Sender<u32>,
    dies: watch::Sender<()>,
}

impl Body for Scripted {
    type Server = watch::Receiver<()>;

    async fn prepare(&self, spec: &Value, _server_runs: bool) -> Result<Arc<Prepared>, Refusal> {
        let spec = parse(spec).unwrap().spec;
        let (ignored_fields, settings) = (Vec::new(), Vec::new());
        Ok(Arc::new(Prepared { spec, ignored_fields, settings, promote: None, storage: None }))
    }

    fn work(
        &self,
        _server: Option<Self::Server>,
        _task: Task,
        _stop: Stop,
    ) -> impl Future<Output = Done<Self::Server>> + Send + 'static {
        let scripted = self.clone();
        async move {
            scripted.begun.send_modify(|begun| *begun += 1);
            let result = scripted.ends.lock().await.recv().await.unwrap();
            Done { server: Some(scripted.dies.subscribe()), result }
        }
    }

    async fn ended(server: &mut Self::Server) -> String {
        let _ = server.changed().await;
        "killed".to_owned()
    }

    async fn stop(_server: Self::Server) {}

    fn look(&self) -> impl Future<Output = Option<Look>> + Send + 'static {
        std::future::ready(None)
    }

    fn has_source(&self) -> bool {
        false
    }

    fn fetch(&self) -> impl Future<Output = Fetched> + Send + 'static {
        std::future::ready(Fetched::Nothing("nobody".to_owned()))
    }

    fn crashed(&self) {}
}

fn effect(waits: bool) -> Effect {
    let pending_restart = if waits { vec!["max_connections".to_owned()] } else { Vec::new() };
    Effect { pending_restart, postgres: Some(PostgresInfo { pid: 7, version: "15.0".into(), port: 5432 }), lsn: None }
}

fn does_not_start() -> Ended {
    let detail = ErrorDetail { phase: "start".into(), object: None, sqlstate: None, message: "no".into() };
    Err(Failure::Spec { failures: vec![detail], effect: effect(false), rolled_back: true })
}

async fn push(handle: &Handle, generation: i64) -> tokio::sync::oneshot::Receiver<Outcome> {
    let spec = json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": [], "databases": [], "name": generation.to_string()}});
    let fence = Fence {
        cluster_id: "11111111-1111-4111-8111-111111111111".parse().unwrap(),
        compute_id: own(),
        term: Term(1),
        generation: Generation(generation),
        spec_hash: spec_hash(&spec),
    };
    let admitted = handle.configure(Configure { spec, fence: Some(fence), origin: Origin::Push }).await;
    admitted.unwrap().outcome.unwrap()
}

fn own() -> ComputeId {
    "orders".parse().unwrap()
}

async fn shows(status: &mut watch::Receiver<AgentStatus>, want: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
    let seen = tokio::time::timeout(Duration::from_secs(60), status.wait_for(want)).await;
    seen.expect("the status does not come").unwrap().clone()
}

#[tokio::test]
async fn a_start_is_judged_by_the_spec_it_was_begun_with() {
    let (end, ends) = mpsc::channel(4);
    let body =
        Scripted { ends: Arc::new(Mutex::new(ends)), begun: watch::Sender::default(), dies: watch::Sender::default() };
    let options = Options {
        compute_id: own(),
        boot_id: BootId::generate(),
        spec: None,
        restart_postgres: RestartPostgres::OnCrash,
        exit_on_failure: false,
        pace: Pace { pauses: (Duration::from_millis(1), Duration::from_millis(1)), ..Pace::default() },
    };
    let (driver, handle) = Driver::new(options, Ledger::in_memory(), body.clone(), Arc::default());
    let mut status = driver.publisher.watch();
    let mut begun = body.begun.subscribe();
    let stop = CancellationToken::new();
    let mut driving = tokio::task::JoinSet::new();
    driving.spawn(driver.run(stop.clone()));

    // One good spec, then one whose settings wait for a restart: applied, and not proved.
    for (generation, waits) in [(1, false), (2, true)] {
        let outcome = push(&handle, generation).await;
        end.send(Ok(effect(waits))).await.unwrap();
        assert_eq!(outcome.await, Ok(Outcome::Applied));
    }
    shows(&mut status, |status| status.applied_generation == Some(Generation(2))).await;

    // PostgreSQL dies. While it is being started, with the settings of 2, a third spec comes.
    body.dies.send_replace(());
    begun.wait_for(|begun| *begun == 3).await.unwrap();
    let outcome = push(&handle, 3).await;
    end.send(does_not_start()).await.unwrap();
    let back = shows(&mut status, |status| status.applied_generation != Some(Generation(2))).await;
    assert_eq!(back.applied_generation, Some(Generation(1)));
    assert_eq!(back.rejected_generation, Some(Generation(2)), "it went back and does not say why");

    // The third is not at fault: it is applied.
    end.send(Ok(effect(false))).await.unwrap();
    assert_eq!(outcome.await, Ok(Outcome::Applied));
    let at_last = shows(&mut status, |status| status.applied_generation == Some(Generation(3))).await;
    assert_eq!(at_last.rejected_generation, Some(Generation(2)));
    stop.cancel();
    driving.join_all().await.into_iter().for_each(|ended| ended.unwrap());
}
