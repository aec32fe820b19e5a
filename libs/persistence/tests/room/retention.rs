//! The journal's partitions and the pruning of tombstones, beside writers that go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_persistence::{Action, Afresh, Caught, Change, Keep, Kept, Pruned, Tail, WriterHooks};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{Fleet, Leader, SOON, id, register, spawn, value};

const LONG: Duration = Duration::from_secs(3600);

fn keep(period_s: u64, retention: Duration) -> Keep {
    Keep::new(Duration::from_secs(period_s), retention)
}

fn line(n: i64) -> Change {
    Change::Journal(Action { compute_id: None, actor: "op".to_owned(), reason: None, detail: json!({ "n": n }) })
}

async fn turn(leader: &Leader, keep: &Keep) -> Kept {
    leader.member.db.look_after_journal(&leader.term, keep).await.unwrap().unwrap()
}

/// Writes lines until it is told to end; gives the slowest write and the number of the last line.
async fn write_on(leader: &Leader, end: &CancellationToken) -> (Duration, i64) {
    let (mut slowest, mut n) = (Duration::ZERO, 0);
    while !end.is_cancelled() {
        n += 1;
        let begun = Instant::now();
        leader.writer.submit(line(n)).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    (slowest, n)
}

/// Time goes on, partitions come and go, writers do not wait for them, and what is not pruned is all there, in order.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_and_go_beside_writers() {
    let Some(fleet) = Fleet::new("partitions_come_and_go_beside_writers").await else { return };
    let leader = Arc::new(Leader::new(fleet.member().await, WriterHooks::default()).await);
    let end = CancellationToken::new();
    let load = {
        let (leader, end) = (Arc::clone(&leader), end.clone());
        spawn(async move { write_on(&leader, &end).await })
    };
    let (mut made, mut dropped) = (BTreeSet::new(), BTreeSet::new());
    let deadline = Instant::now() + 2 * SOON;
    while dropped.len() < 2 {
        assert!(Instant::now() < deadline, "made {made:?}, dropped {dropped:?}");
        // In turns by a look under the lock and by a proof beside the writers.
        let small_bytes = if made.len() % 2 == 0 { -1 } else { 16 << 20 };
        let kept = turn(&leader, &Keep { small_bytes, ..keep(2, Duration::from_secs(2)) }).await;
        for name in kept.made {
            assert!(made.insert(name.clone()), "{name} was made twice");
        }
        for name in kept.dropped {
            assert!(made.contains(&name) && dropped.insert(name.clone()), "{name}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    end.cancel();
    let (slowest, last) = load.await.unwrap();
    assert!(slowest < Duration::from_secs(2), "a write took {slowest:?}");

    let db = &leader.member.db;
    let Pruned { journal: pruned, .. } = db.pruned().await.unwrap();
    assert!(0 < pruned && pruned < last, "{pruned} of {last}");
    let mut cursor = pruned;
    loop {
        let lines = db.journal_after(cursor, 1000).await.unwrap();
        let Some(newest) = lines.last() else { break };
        for (line, number) in lines.iter().zip(cursor + 1..) {
            assert_eq!(
                (line.change_seq, &line.detail),
                (number, &json!({ "n": number })),
                "no gap above what was pruned"
            );
        }
        cursor = newest.change_seq;
    }
    assert_eq!(cursor, last);
    let client = fleet.client().await;
    assert_eq!(value(&client, "SELECT count(*) FROM journal_default WHERE at < now() - interval '1 minute'").await, 0);
    let proofs = "SELECT count(*) FROM pg_constraint WHERE conname = 'journal_default_is_past'";
    assert_eq!(value(&client, proofs).await, 0, "no proof is left behind");
    let indexes = "SELECT bool_and(n = 3) FROM (SELECT count(*) AS n FROM pg_index x JOIN pg_inherits i
                   ON i.inhrelid = x.indrelid WHERE i.inhparent = 'journal'::regclass GROUP BY x.indrelid) AS counts";
    assert_eq!(value(&client, indexes).await, true, "a partition has the journal's indexes, once each");
}

/// What lies in the default partition is pruned there, and the journal says up to where.
#[tokio::test(flavor = "multi_thread")]
async fn old_lines_of_the_default_partition_go() {
    let Some(fleet) = Fleet::new("old_lines_of_the_default_partition_go").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    for n in 1..=3 {
        leader.writer.submit(line(n)).await.unwrap();
    }
    assert_eq!(turn(&leader, &keep(3600, LONG)).await.lines, 0);
    let client = fleet.client().await;
    client.execute("UPDATE journal SET at = at - interval '2 hours' WHERE change_seq < 3", &[]).await.unwrap();
    let kept = turn(&leader, &keep(3600, LONG)).await;
    assert_eq!((kept.lines, kept.made.len(), kept.unfinished), (2, 0, false), "two were made by the turn before");
    assert_eq!(leader.member.db.pruned().await.unwrap(), Pruned { journal: 2, tombstones: 0 });
    assert_eq!(leader.member.db.journal_after(0, 10).await.unwrap().len(), 1);
}

/// A tombstone goes when it is old. Whoever is so far behind that he would miss it loads afresh, others go on.
#[tokio::test(flavor = "multi_thread")]
async fn old_tombstones_go_and_who_would_miss_one_loads_afresh() {
    let Some(fleet) = Fleet::new("old_tombstones_go_and_who_would_miss_one_loads_afresh").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    for name in ["a", "b", "c"] {
        leader.register(name).await;
    }
    let mut far = Tail::new(Arc::clone(&fleet.member().await.db));
    let behind = far.load().await.unwrap().change_seq;
    // One is deleted long ago, one not quite so long.
    for name in ["a", "b"] {
        leader.writer.submit(Change::Delete { compute_id: id(name) }).await.unwrap();
    }
    let mut near = Tail::new(Arc::clone(&fleet.member().await.db));
    let up_to_date = near.load().await.unwrap().change_seq;
    let client = fleet.client().await;
    let age = "UPDATE computes SET deleted_at = deleted_at - interval '4 hours' WHERE compute_id = 'a'";
    client.execute(age, &[]).await.unwrap();
    client.execute(&age.replace('4', "2").replace("'a'", "'b'"), &[]).await.unwrap();

    assert!(matches!(far.catch_up(behind).await.unwrap(), Caught::News(_)));
    let kept = turn(&leader, &keep(3600, LONG)).await;
    assert_eq!(kept.tombstones, 1);
    assert_eq!(leader.member.db.pruned().await.unwrap(), Pruned { journal: 0, tombstones: 4 });
    assert_eq!(
        value(&client, "SELECT array_agg(compute_id ORDER BY compute_id) FROM computes").await,
        json!(["b", "c"])
    );
    assert_eq!(far.catch_up(behind).await.unwrap(), Caught::Afresh(Afresh::Pruned));
    assert!(matches!(near.catch_up(up_to_date).await.unwrap(), Caught::News(_)));
    assert_eq!(far.load().await.unwrap().computes.len(), 1);
    // The name is free again, and its generations begin anew.
    leader.writer.submit(register("a", None)).await.unwrap();
}

/// A reader of the journal is not waited for: the turn gives up, and writers go on at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_waits_for_no_reader() {
    let Some(fleet) = Fleet::new("a_turn_waits_for_no_reader").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    turn(&leader, &keep(1, LONG)).await;
    let client = fleet.client().await;
    client.batch_execute("BEGIN; SELECT count(*) FROM journal").await.unwrap();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let at_once = keep(1, Duration::ZERO);
    let (kept, wrote) = tokio::join!(turn(&leader, &at_once), leader.writer.submit(line(1)));
    assert!(kept.unfinished && kept.dropped.is_empty(), "{kept:?}");
    wrote.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(3100) + Duration::from_secs(2), "{:?}", begun.elapsed());
    client.batch_execute("COMMIT").await.unwrap();
    let kept = turn(&leader, &at_once).await;
    assert!(!kept.dropped.is_empty(), "{kept:?}");
}

/// A process that died between two steps leaves nothing that refuses a line later.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_was_left_is_taken_back() {
    let Some(fleet) = Fleet::new("a_proof_that_was_left_is_taken_back").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let client = fleet.client().await;
    let left = "ALTER TABLE journal_default ADD CONSTRAINT journal_default_is_past CHECK (at < now()) NOT VALID";
    client.batch_execute(&left.replace("now()", "'2020-01-01'")).await.unwrap();
    leader.writer.submit(line(1)).await.unwrap_err();
    turn(&leader, &keep(3600, LONG)).await;
    leader.writer.submit(line(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_leader_looks_after_nothing() {
    let Some(fleet) = Fleet::new("a_replaced_leader_looks_after_nothing").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    let stale = old.lead().await;
    let _term = new.lead().await;
    let looked = old.db.look_after_journal(&stale, &keep(3600, LONG)).await.unwrap();
    assert_eq!(looked, None);
    let client = fleet.client().await;
    assert_eq!(value(&client, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'journal'::regclass").await, 1);
}
