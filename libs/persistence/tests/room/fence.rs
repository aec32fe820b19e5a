//! Fencing: what a claim waits for, what a renewal does not, and what the UNIQUE on `term` is there for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_persistence::{Began, Hook, Renewed, WriteError, WriterHooks};
use tokio::sync::Notify;

use crate::support::{Fleet, Leader, Member, SOON, put, register, seen, spawn, until_waiting, value, won};

const OPEN_FENCE: &str = "SELECT 1 FROM leader WHERE term = 1 AND released_at IS NULL FOR KEY SHARE";

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_an_open_fence_and_a_renewal_does_not() {
    let Some(fleet) = Fleet::new("a_claim_waits_for_an_open_fence_and_a_renewal_does_not").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let term = old.lead().await;
    let admin = fleet.client().await;
    let mut writer = fleet.client().await;
    let open = writer.transaction().await.unwrap();
    open.query_one(OPEN_FENCE, &[]).await.unwrap();

    let mut lease = old.session();
    let renewed = tokio::time::timeout(Duration::from_secs(1), lease.renew(&term)).await;
    assert_eq!(renewed.expect("a renewal waited for a writer").unwrap(), Renewed::Yes);

    let row = new.db.read_leader().await.unwrap().unwrap();
    let claim = spawn(async move { new.claim(Some(seen(&row)), Began::Crash).await });
    until_waiting(&admin, 1).await;
    assert!(!claim.is_finished());
    assert_eq!(value(&admin, "SELECT term FROM leader").await, 1);
    open.commit().await.unwrap();
    assert_eq!(won(claim.await.unwrap().unwrap()).term(), Term(2));
    assert!(writer.query_opt(OPEN_FENCE, &[]).await.unwrap().is_none(), "the old fence still finds a row");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_unique_constraint_a_claim_would_not_wait() {
    let Some(fleet) = Fleet::new("without_the_unique_constraint_a_claim_would_not_wait").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let _term = old.lead().await;
    let mut writer = fleet.client().await;
    writer.batch_execute("ALTER TABLE leader DROP CONSTRAINT leader_term_key").await.unwrap();
    let open = writer.transaction().await.unwrap();
    open.query_one(OPEN_FENCE, &[]).await.unwrap();
    let row = new.db.read_leader().await.unwrap().unwrap();
    let claim = tokio::time::timeout(SOON, new.claim(Some(seen(&row)), Began::Crash)).await;
    assert_eq!(won(claim.unwrap().unwrap()).term(), Term(2), "so it is that constraint which makes a claim wait");
    open.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gives_up_after_its_lock_timeout_and_can_be_repeated() {
    let Some(fleet) = Fleet::new("a_claim_gives_up_after_its_lock_timeout_and_can_be_repeated").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let _term = old.lead().await;
    let mut writer = fleet.client().await;
    let open = writer.transaction().await.unwrap();
    open.query_one(OPEN_FENCE, &[]).await.unwrap();
    let row = new.db.read_leader().await.unwrap().unwrap();
    let error = new.claim(Some(seen(&row)), Began::Crash).await.unwrap_err();
    assert_eq!(error.class(), pgfleet_persistence::ErrorClass::LockTimeout, "{error:?}");
    open.rollback().await.unwrap();
    assert_eq!(won(new.claim(Some(seen(&row)), Began::Crash).await.unwrap()).term(), Term(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_replaced_writes_nothing_for_ever_after() {
    let Some(fleet) = Fleet::new("a_writer_that_was_replaced_writes_nothing_for_ever_after").await else { return };
    let old = Leader::new(fleet.member().await, WriterHooks::default()).await;
    old.register("a").await;
    let new = Leader::new(fleet.member().await, WriterHooks::default()).await;
    assert_eq!(old.writer.submit(put("a", '1')).await, Err(WriteError::NotLeader));
    assert_eq!(old.writer.submit(put("a", '2')).await, Err(WriteError::NotLeader));
    old.task.await.unwrap().unwrap();
    assert_eq!(Arc::strong_count(&old.term), 1, "the task has let go of its term");
    let committed = new.writer.submit(put("a", '3')).await.unwrap();
    assert_eq!(committed.generation.get(), 1, "nothing of the old leader is in it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_open_when_a_claim_comes_is_committed_before_it() {
    let Some(fleet) = Fleet::new("a_batch_that_is_open_when_a_claim_comes_is_committed_before_it").await else {
        return;
    };
    let (armed, reached, go) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hook = stop_once(&armed, &reached, &go);
    let old =
        Leader::new(fleet.member().await, WriterHooks { in_write_tx: Some(hook), ..WriterHooks::default() }).await;
    old.register("a").await;
    armed.store(true, Ordering::SeqCst);
    let writer = old.writer.clone();
    let write = spawn(async move { writer.submit(register("b", None)).await });
    reached.notified().await;

    let (new, admin) = (fleet.member().await, fleet.client().await);
    let row = new.db.read_leader().await.unwrap().unwrap();
    let claim = spawn(async move { (new.claim(Some(seen(&row)), Began::Crash).await, new) });
    until_waiting(&admin, 1).await;
    go.notify_one();
    let committed = write.await.unwrap().unwrap();
    let (outcome, new) = claim.await.unwrap();
    assert_eq!(won(outcome.unwrap()).term(), Term(2));
    let loaded = new.db.load().await.unwrap();
    assert_eq!(loaded.change_seq, committed.change_seq, "the new leader loads what was acknowledged");
    assert_eq!(loaded.computes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_freezes_in_its_transaction_does_not_stop_a_claim() {
    let Some(fleet) = Fleet::new("a_writer_that_freezes_in_its_transaction_does_not_stop_a_claim").await else {
        return;
    };
    let (armed, reached, go) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hook = stop_once(&armed, &reached, &go);
    // Its lease is a second, so the server lets it idle in a transaction for a quarter of one.
    let member = Member::connect(&fleet.url, Duration::from_secs(1)).await;
    let old = Leader::new(member, WriterHooks { in_write_tx: Some(hook), ..WriterHooks::default() }).await;
    old.register("a").await;
    armed.store(true, Ordering::SeqCst);
    let writer = old.writer.clone();
    let write = spawn(async move { writer.submit(put("a", '1')).await });
    reached.notified().await;

    let new = fleet.member().await;
    let row = new.db.read_leader().await.unwrap().unwrap();
    assert_eq!(won(new.claim(Some(seen(&row)), Began::Lease).await.unwrap()).term(), Term(2));
    go.notify_one();
    let answer = write.await.unwrap();
    // On a slow machine a second is too short to look; either way it knows that nothing was written.
    assert!(matches!(answer, Err(WriteError::NotLeader | WriteError::Unavailable { .. })), "{answer:?}");
    assert_eq!(new.db.load().await.unwrap().change_seq, 1);
}

/// A hook that stops at its next call once it is armed.
fn stop_once(armed: &Arc<AtomicBool>, reached: &Arc<Notify>, go: &Arc<Notify>) -> Hook {
    let (armed, reached, go) = (Arc::clone(armed), Arc::clone(reached), Arc::clone(go));
    Arc::new(move || {
        let (armed, reached, go) = (Arc::clone(&armed), Arc::clone(&reached), Arc::clone(&go));
        Box::pin(async move {
            if armed.swap(false, Ordering::SeqCst) {
                reached.notify_one();
                go.notified().await;
            }
        })
    })
}
