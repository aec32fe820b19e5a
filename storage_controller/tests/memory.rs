//! The memory against its database: whatever is written, and wherever it catches up, it is what a fresh load gives; and so
//! is the map that a leadership keeps by its own commits.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::agent::{ComputeState, TerminateMode};
use pgfleet_api::compute::Observed;
use pgfleet_api::policy::SuspendPolicy::{Never, WhenIdle};
use pgfleet_api::policy::{ActionKind, PutPolicy};
use pgfleet_api::{BootId, ComputeId, Generation, InstanceId, Term};
use pgfleet_harness::postgres::{Cluster, Options, bin_dir_or_skip, connect};
use pgfleet_persistence::{
    Action, Began, Caught, Change, Claim, ClaimOutcome, Database, DatabaseConfig, LeaseSession, NewSpec, Release, Tail,
    Writer, WriterHooks,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use storage_controller::observe::{Entry, Filter, Snapshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SEEDS: u64 = 6;
const ROUNDS: usize = 60;

/// Makes the tables by the migrations' own files.
async fn prepare(url: &str) {
    let client = connect(url).await.unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path().join("up.sql")).collect();
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        client.batch_execute(&std::fs::read_to_string(file).unwrap()).await.unwrap();
    }
    client.batch_execute("CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY)").await.unwrap();
}

async fn member(url: &str) -> Arc<Database> {
    let database = Database::connect(DatabaseConfig {
        url: url.to_owned(),
        instance_id: InstanceId::generate(),
        lease: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        pool_size: 1,
        release: Release::this(),
    });
    database.await.unwrap()
}

fn id(n: u32) -> ComputeId {
    format!("c{n}").parse().unwrap()
}

fn spec(rng: &mut StdRng) -> NewSpec {
    let fill = char::from_digit(rng.random_range(0..16), 16).unwrap();
    let spec = json!({ "fill": fill, "suspend_timeout_seconds": fill.to_digit(10) });
    NewSpec::new(&spec, fill.to_string().repeat(64).parse().unwrap())
}

fn seen(rng: &mut StdRng, boots: &[BootId]) -> Observed {
    let states = [ComputeState::Running, ComputeState::Init, ComputeState::Failed];
    Observed {
        state: states[rng.random_range(0..states.len())],
        boot_id: boots[rng.random_range(0..boots.len())],
        status_seq: rng.random_range(1..50),
        term: Some(Term(1)),
        generation: None,
        applied_generation: None,
        rejected_generation: None,
        spec_hash: None,
        pending_restart: vec![],
        ignored_fields: vec![],
        error: rng.random_bool(0.3).then(|| "no".to_owned()),
        error_detail: None,
        failures: Vec::new(),
        postgres: None,
    }
}

/// A wish of somebody, or what an agent says; many of them fail, because the compute is not there.
fn change(rng: &mut StdRng, boots: &[BootId]) -> Change {
    let compute_id = id(rng.random_range(0..6));
    match rng.random_range(0..15) {
        0..=2 => Change::Register {
            compute_id,
            agent_url: format!("http://10.0.0.{}", rng.random_range(0..3)),
            labels: [("tier".to_owned(), rng.random_range(0..2).to_string())].into(),
            spec: rng.random_bool(0.5).then(|| spec(rng)),
        },
        3..=4 => Change::PutSpec { compute_id, spec: spec(rng), if_match: None },
        5..=6 => Change::Delete { compute_id },
        7..=8 => Change::Observed { compute_id, observed: Box::new(seen(rng, boots)) },
        9..=10 => Change::SetPolicy {
            compute_id,
            policy: PutPolicy { suspend: Some(if rng.random_bool(0.5) { WhenIdle } else { Never }), mode: None },
        },
        11..=12 => Change::Act {
            compute_id,
            action: [None, Some(ActionKind::Terminate), Some(ActionKind::Delete)][rng.random_range(0..3)]
                .map(|action| (action, TerminateMode::Fast)),
        },
        13 => Change::Acted { compute_id, generation: Generation(rng.random_range(1..12)) },
        _ => Change::Journal(Action {
            compute_id: Some(compute_id),
            actor: "somebody".to_owned(),
            reason: None,
            detail: json!({}),
        }),
    }
}

fn content(snapshot: &Snapshot) -> Vec<(pgfleet_persistence::ComputeRecord, Option<Observed>)> {
    let plain = |entry: &Arc<Entry>| (entry.record.as_ref().clone(), entry.observed.as_deref().cloned());
    snapshot.page(&Filter::default(), None, usize::MAX).0.iter().map(plain).collect()
}

/// Each member finds the text that belongs to each hash in the map, whether it wrote it or not.
async fn texts_are_there(led: &Snapshot, members: &[Arc<Database>]) {
    for (record, _) in content(led) {
        let Some(hash) = &record.spec_hash else { continue };
        for member in members {
            let text = member.spec_text(&record.compute_id, hash).await.unwrap().unwrap();
            assert_eq!(text.value().unwrap()["fill"], hash.as_str()[..1], "{}", record.compute_id);
        }
    }
}

/// One leader, one follower, one seed.
async fn run(cluster: &Cluster, seed: u64) {
    let url = cluster.create_database(&format!("memory_{seed}")).await.unwrap();
    prepare(&url).await;
    let leader = member(&url).await;
    leader.bootstrap().await.unwrap();
    let claim = Claim { seen: None, floor: Term(0), address: "http://x".to_owned(), lease_ms: 5000, how: Began::First };
    let ClaimOutcome::Won(term) = LeaseSession::new(leader.clone()).claim(&claim).await.unwrap() else {
        panic!("nobody else claims")
    };
    let led = Snapshot::default();
    let map = led.clone();
    let hooks = WriterHooks {
        on_commit: Some(Arc::new(move |committed| {
            if let Some(record) = &committed.record {
                map.committed(record.clone());
            }
            if let (true, Some(id)) = (committed.deleted, &committed.compute_id) {
                map.deleted(id);
            }
        })),
        ..WriterHooks::default()
    };
    let (writer, task) = Writer::channel(leader.clone(), Arc::new(term), hooks, 0);
    let writing = JoinSet::from_iter([task.run(CancellationToken::new())]);

    let mut rng = StdRng::seed_from_u64(seed);
    let boots = [BootId::generate(), BootId::generate()];
    let mut tail = Tail::new(member(&url).await);
    let loaded = tail.load().await.unwrap();
    let (followed, mut cursor) = (Snapshot::loaded(loaded.computes, loaded.observed), loaded.change_seq);
    for round in 0..ROUNDS {
        let changes = (0..rng.random_range(1..8)).map(|_| change(&mut rng, &boots)).collect();
        writer.submit_all(changes).await;
        if rng.random_bool(0.4) {
            continue;
        }
        let Caught::News(news) = tail.catch_up(cursor).await.unwrap() else { panic!("seed {seed}: nothing is stale") };
        cursor = news.change_seq;
        followed.take_in(news.items);
        let fresh = leader.load().await.unwrap();
        assert_eq!((cursor, Some(cursor)), (fresh.change_seq, writer.settled_at()), "seed {seed}, round {round}");
        let fresh = Snapshot::loaded(fresh.computes, fresh.observed);
        assert_eq!(content(&followed), content(&fresh), "seed {seed}, round {round}");
        assert_eq!(followed.tally(), fresh.tally(), "seed {seed}, round {round}");
        let asked = |snapshot: &Snapshot| content(snapshot).into_iter().map(|(record, _)| record).collect::<Vec<_>>();
        assert_eq!(asked(&led), asked(&fresh), "seed {seed}, round {round}: the leader's own map");
    }
    assert!(cursor > 0, "seed {seed} wrote something");
    texts_are_there(&led, &[leader, member(&url).await]).await;
    drop(writing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_follows_is_a_fresh_load() {
    if bin_dir_or_skip("a_memory_that_follows_is_a_fresh_load").is_none() {
        return;
    }
    let cluster = Cluster::start(Options::default()).await.unwrap();
    for seed in 0..SEEDS {
        run(&cluster, seed).await;
    }
}
