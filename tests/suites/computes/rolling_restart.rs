//! A rolling restart while clients write and read: nobody's request fails, and nothing that was acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgfleet_api::compute::SpecAccepted;
use pgfleet_api::controller::Role;
use pgfleet_api::{ComputeId, Generation, SpecHash};
use pgfleet_clients::controller::{ControllerClient, Options};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{applied, register};

/// Distance of two requests of one client: a load, not a flood.
const PACE: Duration = Duration::from_millis(10);
/// What has to be acknowledged before and after each hand-over.
const ENOUGH: usize = 100;

/// What the clients saw.
#[derive(Default)]
struct Ledger {
    acknowledged: Vec<(ComputeId, SpecAccepted)>,
    reads: usize,
    failed: Vec<String>,
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Ledger>>);

impl Book {
    fn with<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    async fn grows(&self, what: &str) {
        let (writes, reads) = self.with(|book| (book.acknowledged.len() + ENOUGH, book.reads + ENOUGH));
        wait_until(what, PATIENCE, async || self.with(|book| book.acknowledged.len() >= writes && book.reads >= reads))
            .await;
    }
}

async fn write(client: ControllerClient, id: ComputeId, book: Book, end: CancellationToken) {
    let mut pace = tokio::time::interval(PACE);
    for round in 0.. {
        pace.tick().await;
        if end.is_cancelled() {
            return;
        }
        let result = client.put_spec(&id, &marked(&format!("{id}-{round}")), None).await;
        book.with(|book| match result {
            Ok(accepted) => book.acknowledged.push((id.clone(), accepted)),
            Err(error) => book.failed.push(format!("PUT {id} round {round}: {error}")),
        });
    }
}

/// Reads what was acknowledged: a later answer never has less.
async fn read(client: ControllerClient, id: ComputeId, book: Book, end: CancellationToken) {
    let mut pace = tokio::time::interval(PACE);
    loop {
        pace.tick().await;
        if end.is_cancelled() {
            return;
        }
        let newest = |book: &mut Ledger| {
            book.acknowledged.iter().filter(|(of, _)| *of == id).map(|(_, accepted)| accepted.generation).max()
        };
        let known = book.with(newest);
        let result = client.get(&id).await;
        book.with(|book| match result {
            Ok(view) if Some(view.generation) >= known => book.reads += 1,
            Ok(view) => book.failed.push(format!("GET {id} gave {} after {known:?} was acknowledged", view.generation)),
            Err(error) => book.failed.push(format!("GET {id}: {error}")),
        });
    }
}

/// One member's turn: a new process asks the leader to step down; the old one is told to end when the new one leads.
async fn replace(fleet: &Fleet, old: Controller, name: &str, term: i64) -> Controller {
    let new = fleet.controller(name).lease("5s", "500ms").as_candidate().start().await;
    assert_eq!(new.leads(PATIENCE).await.get(), term);
    old.is(Role::Candidate, PATIENCE).await;
    old.process.terminate();
    assert_eq!(old.process.exit_code(PATIENCE).await, 0);
    new
}

/// Every (generation, hash) that was acknowledged is in the journal; one generation has one content; no two share one.
async fn compare_with_history(fleet: &Fleet, acknowledged: &[(ComputeId, SpecAccepted)]) {
    let sql = "SELECT compute_id, (detail->>'generation')::bigint, detail->>'spec_hash' FROM journal
               WHERE kind = 'action' AND detail->>'spec_hash' IS NOT NULL";
    let rows = fleet.database().await.query(sql, &[]).await.unwrap();
    let history: BTreeSet<(String, i64, String)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let mut contents: BTreeMap<(String, i64), String> = BTreeMap::new();
    for (id, generation, hash) in &history {
        let other = contents.insert((id.clone(), *generation), hash.clone());
        assert_eq!(other, None, "{id} has two contents under generation {generation}");
    }
    let missing: Vec<_> = acknowledged
        .iter()
        .filter(|(id, accepted)| {
            let line = (id.to_string(), accepted.generation.get(), accepted.spec_hash.to_string());
            !history.contains(&line)
        })
        .collect();
    assert!(missing.is_empty(), "acknowledged and not in the history: {missing:?}");
}

/// Two hand-overs under load.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_under_load() {
    let Some(fleet) = Fleet::start("rolling_restart_under_load").await else { return };
    let long = |name| fleet.controller(name).lease("5s", "500ms");
    let a = long("a").start_leader().await;
    let b = long("b").start().await;
    b.is(Role::Candidate, PATIENCE).await;
    let mut agents = Vec::new();
    for name in ["c1", "c2", "c3"] {
        agents.push(fleet.agent(name).start().await);
    }
    let first = fleet.client(&[&a]);
    for agent in &agents {
        register(&first, agent, Some(marked("first"))).await;
        applied(&first, agent).await;
    }

    let (book, end, mut load) = (Book::default(), CancellationToken::new(), JoinSet::new());
    for (index, agent) in agents.iter().enumerate() {
        // Each begins at another member, and forgets who led: every member is asked all the time.
        let members = if index % 2 == 0 { [&a, &b] } else { [&b, &a] };
        let client = fleet.client_with(&members, Options { remember_leader: false, ..Options::default() });
        load.spawn(write(client.clone(), agent.id.clone(), book.clone(), end.clone()));
        load.spawn(read(client, agent.id.clone(), book.clone(), end.clone()));
    }
    book.grows("load before the restart").await;
    let c = replace(&fleet, a, "c", 2).await;
    book.grows("load after the first hand-over").await;
    // The second one: the clients know only a, which is gone, and b, which never led.
    let d = replace(&fleet, c, "d", 3).await;
    book.grows("load after the second hand-over").await;
    end.cancel();
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }

    let (acknowledged, failed) =
        book.with(|book| (std::mem::take(&mut book.acknowledged), std::mem::take(&mut book.failed)));
    assert!(failed.is_empty(), "{} failed of {}: {failed:#?}", failed.len(), acknowledged.len());
    compare_with_history(&fleet, &acknowledged).await;
    let mut newest: BTreeMap<&ComputeId, (Generation, &SpecHash)> = BTreeMap::new();
    for (id, accepted) in &acknowledged {
        let known = newest.entry(id).or_insert((accepted.generation, &accepted.spec_hash));
        *known = (*known).max((accepted.generation, &accepted.spec_hash));
    }
    assert_eq!(newest.len(), agents.len());
    for agent in &agents {
        let (generation, hash) = newest[&agent.id];
        let status = agent.runs(generation).await;
        assert_eq!(status.spec_hash.as_ref(), Some(hash), "{}", agent.id);
    }
    let history = fleet.history().await;
    let began: Vec<&str> = history.iter().map(|(_, began, _)| began.as_str()).collect();
    assert_eq!(began, ["first", "step_down", "step_down"]);
    assert_eq!(d.leads(PATIENCE).await.get(), 3);
    b.is(Role::Candidate, PATIENCE).await;
}
