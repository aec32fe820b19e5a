//! Loading: one consistent snapshot, whatever is written meanwhile.

use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::{BootId, Generation};
use pgfleet_persistence::{Change, WriterHooks};
use tokio::time::Instant;

use crate::support::{Fleet, Leader, id, observed, put, register, report, spawn, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_one_moment_and_has_no_tombstones() {
    let Some(fleet) = Fleet::new("a_load_is_one_moment_and_has_no_tombstones").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let db = leader.member.db.clone();
    let empty = db.load().await.unwrap();
    assert_eq!((empty.change_seq, empty.computes.len(), empty.observed.len()), (0, 0, 0));
    assert_eq!(empty.cluster_id, leader.term.cluster_id());

    let writer = leader.writer.clone();
    let busy = spawn(async move {
        let boot = BootId::generate();
        for n in 0..40_u64 {
            let name = format!("c{}", n % 5);
            let fill = char::from_digit(u32::try_from(n % 16).unwrap(), 16).unwrap();
            writer.submit(register(&name, Some(spec(fill)))).await.unwrap();
            writer.submit(report(&name, &observed(boot, n + 1, ComputeState::Running))).await.unwrap();
            if n % 3 == 0 {
                writer.submit(Change::Delete { compute_id: id(&name) }).await.unwrap();
            }
        }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while !busy.is_finished() {
        assert!(Instant::now() < deadline);
        let loaded = db.load().await.unwrap();
        // Everything in a snapshot is at or below its cursor, and what was observed belongs to a compute in it.
        assert!(loaded.computes.iter().all(|c| c.change_seq <= loaded.change_seq), "{loaded:?}");
        let known: Vec<_> = loaded.computes.iter().map(|c| &c.compute_id).collect();
        assert!(loaded.observed.iter().all(|(id, _)| known.contains(&id)), "{loaded:?}");
        assert!(loaded.computes.is_sorted_by(|a, b| a.compute_id < b.compute_id));
    }
    busy.await.unwrap();
    assert!(db.load().await.unwrap().computes.iter().all(|c| c.spec_hash.is_some() && c.generation > Generation(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_goes_on_from_what_it_loads() {
    let Some(fleet) = Fleet::new("a_successor_goes_on_from_what_it_loads").await else { return };
    let old = Leader::new(fleet.member().await, WriterHooks::default()).await;
    old.writer.submit(register("a", Some(spec('1')))).await.unwrap();
    assert!(old.writer.close(Duration::from_secs(5)).await);
    old.token.cancel();
    old.task.await.unwrap().unwrap();

    let new = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let committed = new.writer.submit(put("a", '2')).await.unwrap();
    assert_eq!((committed.change_seq, committed.generation), (2, Generation(2)));
    let fence = new.term.fence(&id("a"), committed.generation, &committed.spec_hash.unwrap());
    assert_eq!((fence.term.get(), fence.cluster_id), (2, old.term.cluster_id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_compute_is_read_as_it_is_loaded() {
    let Some(fleet) = Fleet::new("one_compute_is_read_as_it_is_loaded").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let db = leader.member.db.clone();
    leader.writer.submit(register("seen", Some(spec('1')))).await.unwrap();
    leader.writer.submit(register("unseen", None)).await.unwrap();
    leader.writer.submit(register("gone", Some(spec('2')))).await.unwrap();
    for name in ["seen", "gone"] {
        let observed = observed(BootId::generate(), 3, ComputeState::Running);
        leader.writer.submit(report(name, &observed)).await.unwrap();
    }
    leader.writer.submit(Change::Delete { compute_id: id("gone") }).await.unwrap();
    let loaded = db.load().await.unwrap();
    assert_eq!(loaded.computes.len(), 2);
    for record in loaded.computes {
        let name = record.compute_id.clone();
        let seen = loaded.observed.iter().find(|(id, _)| *id == name).map(|(_, observed)| observed.clone());
        assert_eq!(seen.is_some(), name == id("seen"));
        assert_eq!(db.compute(&name).await.unwrap(), Some((record, seen)), "{name}");
    }
    for nobody in ["gone", "never"] {
        assert_eq!(db.compute(&id(nobody)).await.unwrap(), None, "{nobody}");
    }
}
