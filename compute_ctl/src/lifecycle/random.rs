//! The real driver under random events, with a made-up body and a ledger in memory: a thousand lives in which specs with
//! good, old and foreign fences, refreshes, terminations, crashes and works that succeed, fail or hang meet in any order.
//!
//! Checked in each: nothing is published that is no path of the table (the driver panics on an edge that is not there),
//! `status_seq` counts one by one, term and generation never fall, `applied_generation` falls only by a rollback that is
//! reported, every caller gets an answer, and at the end the compute has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgfleet_api::agent::{AgentStatus, ComputeState, ErrorDetail, PostgresInfo, TerminateMode};
use pgfleet_api::{BootId, ClusterId, ComputeId, Fence, Generation, Term};
use pgfleet_domain::lifecycle::{Event, transition};
use pgfleet_domain::spec::{parse, spec_hash};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::body::{Body, Fetched, Look};
use super::driver::{Driver, DriverError, Options, Pace, RestartPostgres};
use super::handle::{Configure, Handle, Origin, Refusal};
use super::work::{Done, Effect, Failure, Order, Prepared, Stop, Task};
use crate::ledger::Ledger;

const LIVES: u64 = 1_000;
/// Lives at the same time.
const TOGETHER: u64 = 100;
/// Nothing in a life may take longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Numbers that follow from a seed, so that a life can be lived again.
#[derive(Debug, Clone)]
struct Dice(Arc<AtomicU64>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)))
    }

    fn below(&self, n: u64) -> u64 {
        let mut x = self.0.load(Ordering::SeqCst);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::SeqCst);
        (x >> 16) % n
    }

    fn moment(&self) -> Duration {
        Duration::from_micros(self.below(3_000))
    }
}

/// A server whose end can be seen and caused.
type Fake = watch::Receiver<bool>;

#[derive(Clone)]
struct World {
    dice: Dice,
    /// Ends the server that was made last.
    alive: Arc<Mutex<watch::Sender<bool>>>,
}

impl World {
    fn server(&self) -> Fake {
        let (end, server) = watch::channel(true);
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = end;
        server
    }

    fn kill(&self) {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).send_replace(false);
    }

    fn effect(&self) -> Effect {
        let waits = self.dice.below(4) == 0;
        let pending_restart = if waits { vec!["max_connections".to_owned()] } else { Vec::new() };
        let postgres = Some(PostgresInfo { pid: 7, version: "15.0".into(), port: 5432 });
        Effect { pending_restart, postgres, lsn: None }
    }

    fn detail(&self) -> ErrorDetail {
        ErrorDetail { phase: "roles".into(), object: Some("x".into()), sqlstate: None, message: "no".into() }
    }

    async fn carry_out(&self, server: &mut Option<Fake>, task: &Task, stop: &Stop) -> Result<Effect, Failure> {
        tokio::time::sleep(self.dice.moment()).await;
        match self.dice.below(10) {
            0 => return Err(Failure::Place(self.detail())),
            1 if matches!(task.order, Order::Apply(_)) => {
                // Stuck, until a newer one has waited long enough.
                stop.overdue().await;
                return Err(Failure::Superseded);
            }
            _ => {}
        }
        if server.as_ref().is_none_or(|server| !*server.borrow()) || matches!(task.order, Order::Restart) {
            *server = Some(self.server());
            if self.dice.below(8) == 0 {
                let failures = vec![self.detail()];
                return Err(Failure::Spec { failures, effect: self.effect(), rolled_back: true });
            }
        }
        if matches!(task.order, Order::Apply(_)) && self.dice.below(6) == 0 {
            let failures = vec![self.detail(), self.detail()];
            return Err(Failure::Spec { failures, effect: self.effect(), rolled_back: false });
        }
        Ok(self.effect())
    }
}

impl Body for World {
    type Server = Fake;

    async fn prepare(&self, spec: &Value, _server_runs: bool) -> Result<Arc<Prepared>, Refusal> {
        if self.dice.below(20) == 0 {
            return Err(Refusal::Unable("asked in vain".into()));
        }
        let parsed = parse(spec).map_err(|error| Refusal::Content { path: error.path, msg: error.msg })?;
        Ok(Arc::new(Prepared { spec: parsed.spec, ignored_fields: Vec::new(), settings: Vec::new(), promote: None }))
    }

    fn work(
        &self,
        mut server: Option<Fake>,
        task: Task,
        stop: Stop,
    ) -> impl Future<Output = Done<Fake>> + Send + 'static {
        let world = self.clone();
        async move {
            if matches!(task.order, Order::Stop) {
                tokio::time::sleep(world.dice.moment()).await;
                return Done { server: None, result: Ok(Effect::default()) };
            }
            let result = tokio::select! {
                () = stop.end.cancelled() => Err(Failure::Cancelled),
                result = world.carry_out(&mut server, &task, &stop) => result,
            };
            Done { server, result }
        }
    }

    async fn ended(server: &mut Fake) -> String {
        // An error means that its world is gone, and the server with it.
        let _ = server.wait_for(|alive| !*alive).await;
        "killed".to_owned()
    }

    async fn stop(_server: Fake) {}

    fn look(&self) -> impl Future<Output = Option<Look>> + Send + 'static {
        let world = self.clone();
        async move {
            (world.dice.below(3) > 0)
                .then(|| Look { pending: world.effect().pending_restart, clients: i64::from(world.dice.below(2) == 0) })
        }
    }

    fn has_source(&self) -> bool {
        true
    }

    fn fetch(&self) -> impl Future<Output = Fetched> + Send + 'static {
        let world = self.clone();
        async move {
            tokio::time::sleep(world.dice.moment()).await;
            match world.dice.below(12) {
                0 => Fetched::Detached,
                1..=5 => Fetched::Nothing("away".into()),
                _ => Fetched::Spec(Box::new(configure(&world.dice, Origin::Pull))),
            }
        }
    }

    fn crashed(&self) {}
}

fn own() -> ComputeId {
    "orders".parse().unwrap()
}

/// A spec with any fence: growing, stale, of other content, foreign, or none.
fn configure(dice: &Dice, origin: Origin) -> Configure {
    let policy = ["never", "when_idle", "now"][usize::try_from(dice.below(3)).unwrap()];
    let keep = ["rollback", "keep"][usize::try_from(dice.below(2)).unwrap()];
    let mut spec = json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "restart_policy": policy,
        "on_failure": keep, "cluster": {"roles": [], "databases": [], "name": dice.below(4).to_string()}});
    if dice.below(12) == 0 {
        spec["cluster"]["roles"] = json!([{"name": ""}]);
    }
    let fence = Fence {
        cluster_id: cluster(dice.below(20) == 0),
        compute_id: own(),
        term: Term(i64::try_from(dice.below(4)).unwrap() + 1),
        generation: Generation(i64::try_from(dice.below(9)).unwrap() + 1),
        spec_hash: spec_hash(&spec),
    };
    Configure { spec, fence: (dice.below(10) > 0).then_some(fence), origin }
}

fn cluster(foreign: bool) -> ClusterId {
    let number = u8::from(foreign);
    format!("1111111{number}-1111-4111-8111-111111111111").parse().unwrap()
}

/// What the driver may publish after `before`.
fn judge(seed: u64, before: &AgentStatus, now: &AgentStatus) {
    let said = format!("life {seed}: {before:?}\nthen {now:?}");
    assert_eq!(now.status_seq, before.status_seq + 1, "{said}");
    if now.status != before.status {
        let events = Event::ALL;
        let drawn = events.into_iter().any(|event| transition(before.status, event) == Ok(now.status));
        assert!(drawn, "no edge of the table: {said}");
    }
    assert!(now.term >= before.term && now.generation >= before.generation, "the ledger went back: {said}");
    assert!(now.rejected_generation >= before.rejected_generation, "{said}");
    if now.applied_generation < before.applied_generation {
        assert!(now.rejected_generation.is_some(), "went back and does not say why: {said}");
    }
}

/// Somebody who asks for something, and must be answered.
async fn ask(handle: Handle, dice: Dice) {
    match dice.below(10) {
        0 => {
            let mode = if dice.below(2) == 0 { TerminateMode::Fast } else { TerminateMode::Immediate };
            // Any answer will do.
            let _ = handle.terminate(mode).await;
        }
        1..=3 => {
            let _ = handle.refresh().await;
        }
        _ => {
            if let Ok(admitted) = handle.configure(configure(&dice, Origin::Push)).await
                && let Some(outcome) = admitted.outcome
            {
                outcome.await.expect("a caller was forgotten");
            }
        }
    }
}

fn options(dice: &Dice) -> Options {
    let ms = Duration::from_millis;
    let pace = Pace {
        pauses: (ms(1), ms(2)),
        asks: (ms(1), ms(2)),
        grace: ms(1),
        look_for_idle: ms(1),
        look: ms(1),
        last_words: ms(1),
    };
    Options {
        compute_id: own(),
        boot_id: BootId::generate(),
        spec: (dice.below(3) == 0).then(|| configure(dice, Origin::File).spec),
        restart_postgres: if dice.below(4) == 0 { RestartPostgres::Never } else { RestartPostgres::OnCrash },
        exit_on_failure: dice.below(10) == 0,
        pace,
    }
}

/// One life, from its begin to its end.
async fn live(seed: u64) -> Vec<ComputeState> {
    let dice = Dice::new(seed);
    let world = World { dice: dice.clone(), alive: Arc::new(Mutex::new(watch::channel(true).0)) };
    let (driver, handle) = Driver::new(options(&dice), Ledger::in_memory(), world.clone(), Arc::default());
    let published = driver.publisher.record();
    let stop = CancellationToken::new();
    let mut driving = JoinSet::new();
    driving.spawn(driver.run(stop.clone()));
    let mut callers = JoinSet::new();
    for _ in 0..dice.below(30) {
        tokio::time::sleep(dice.moment()).await;
        match dice.below(8) {
            0 => world.kill(),
            _ => {
                callers.spawn(ask(handle.clone(), dice.clone()));
            }
        }
    }
    if dice.below(2) == 0 {
        stop.cancel();
    } else {
        let _ = handle.terminate(TerminateMode::Fast).await;
    }
    let ended = tokio::time::timeout(LIMIT, driving.join_next()).await;
    let ended = ended.unwrap_or_else(|_| panic!("life {seed}: the driver does not end")).unwrap();
    match ended.unwrap_or_else(|error| panic!("life {seed}: {error}")) {
        Ok(()) | Err(DriverError::Failed(_) | DriverError::Detached) => {}
    }
    let all = tokio::time::timeout(LIMIT, callers.join_all()).await;
    assert!(all.is_ok(), "life {seed}: a caller has no answer");
    let published = published.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for pair in published.windows(2) {
        judge(seed, &pair[0], &pair[1]);
    }
    published.into_iter().map(|status| status.status).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_lives() {
    let mut seen = std::collections::BTreeSet::new();
    for batch in 0..LIVES / TOGETHER {
        let mut lives = JoinSet::new();
        for n in 0..TOGETHER {
            lives.spawn(live(batch * TOGETHER + n));
        }
        while let Some(states) = lives.join_next().await {
            seen.extend(states.unwrap());
        }
    }
    // The dice reached every state; otherwise the test proves less than it says.
    assert_eq!(seen.len(), ComputeState::ALL.len(), "{seen:?}");
}
