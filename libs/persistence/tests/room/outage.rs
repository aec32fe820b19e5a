//! The database goes away in the middle: restarts, and connections cut exactly at a COMMIT.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgfleet_api::Generation;
use pgfleet_harness::postgres::{Cluster, Options, StopMode, bin_dir_or_skip};
use pgfleet_persistence::{Committed, Renewed, WriteError, WriterHooks};
use tokio::time::Instant;

use crate::support::{Fleet, Leader, Member, SOON, cluster, prepare, put, register, spawn, spec};
use crate::wire::{AWAY, CUT_AFTER, CUT_BEFORE, PASS, Wire};

/// In the message that commits, and in no other.
const AT_COMMIT: &str = "; COMMIT";

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_loses_nothing_that_was_acknowledged() {
    if bin_dir_or_skip("a_restart_of_the_database_loses_nothing_that_was_acknowledged").is_none() {
        return;
    }
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let url = cluster.create_database("fleet").await.unwrap();
    prepare(&url).await;
    let leader = Leader::new(Member::connect(&url, Duration::from_secs(10)).await, WriterHooks::default()).await;
    let mut lease = leader.member.session();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut callers = Vec::new();
    for caller in 0..4 {
        let (writer, stop) = (leader.writer.clone(), stop.clone());
        callers.push(spawn(async move {
            let (mut acknowledged, mut not_executed) = (Vec::new(), 0);
            for n in 0.. {
                if stop.is_cancelled() {
                    break;
                }
                let name = format!("c{caller}-{n}");
                match writer.submit(register(&name, Some(spec('1')))).await {
                    Ok(committed) => {
                        assert_eq!(committed.generation, Generation(1), "{name} was written twice");
                        acknowledged.push(name);
                    }
                    Err(WriteError::Unavailable { .. }) => not_executed += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            (acknowledged, not_executed)
        }));
    }
    for mode in [StopMode::Fast, StopMode::Immediate] {
        cluster.restart(mode).await.unwrap();
        let deadline = Instant::now() + SOON;
        loop {
            match lease.renew(&leader.term).await {
                Ok(renewed) => {
                    assert_eq!(renewed, Renewed::Yes, "a restart changes no leader");
                    break;
                }
                Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // It goes on writing before the next one.
        leader.writer.submit(register(&format!("after-{mode:?}"), None)).await.unwrap();
    }
    stop.cancel();
    let mut acknowledged = vec!["after-Fast".to_owned(), "after-Immediate".to_owned()];
    for caller in callers {
        let (names, not_executed) = caller.await.unwrap();
        assert_eq!(not_executed, 0, "a restart is shorter than a lease, so every change went through");
        acknowledged.extend(names);
    }
    let loaded = leader.member.db.load().await.unwrap();
    let mut found: Vec<String> = loaded.computes.iter().map(|c| c.compute_id.to_string()).collect();
    acknowledged.sort();
    found.sort();
    assert_eq!(found, acknowledged);
    assert_eq!(loaded.change_seq, i64::try_from(found.len()).unwrap(), "nothing was done twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_answered_truly() {
    let test = "a_commit_whose_answer_was_lost_is_answered_truly";
    let (Some(fleet), Some(cluster)) = (Fleet::new(test).await, cluster(test).await) else { return };
    let wire = Wire::to(cluster, &fleet.url, AT_COMMIT).await;
    let leader = Leader::new(Member::connect(&wire.url, Duration::from_secs(5)).await, WriterHooks::default()).await;
    leader.register("a").await;
    for (round, how) in [CUT_AFTER, CUT_BEFORE, CUT_AFTER, CUT_BEFORE].into_iter().enumerate() {
        wire.cut(how, PASS);
        let fill = char::from_digit(u32::try_from(round).unwrap() + 1, 10).unwrap();
        let committed = leader.writer.submit(put("a", fill)).await.unwrap();
        let expected = i64::try_from(round).unwrap() + 1;
        assert_eq!((committed.generation, committed.change_seq), (Generation(expected), expected + 1), "cut {how}");
    }
    assert_eq!(wire.mode.load(Ordering::SeqCst), PASS, "every cut was made");
    let loaded = leader.member.db.load().await.unwrap();
    assert_eq!((loaded.change_seq, loaded.computes[0].generation), (5, Generation(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_learnt_in_time_is_said_so_and_heard_of_later() {
    let test = "what_cannot_be_learnt_in_time_is_said_so_and_heard_of_later";
    let (Some(fleet), Some(cluster)) = (Fleet::new(test).await, cluster(test).await) else { return };
    let wire = Wire::to(cluster, &fleet.url, AT_COMMIT).await;
    let heard: Arc<Mutex<Vec<Committed>>> = Arc::default();
    let on_commit = {
        let heard = Arc::clone(&heard);
        Arc::new(move |committed: &Committed| heard.lock().unwrap().push(committed.clone()))
    };
    let hooks = WriterHooks { on_commit: Some(on_commit), ..WriterHooks::default() };
    let leader = Leader::new(Member::connect(&wire.url, Duration::from_secs(1)).await, hooks).await;
    leader.register("a").await;
    wire.cut(CUT_AFTER, AWAY);
    assert_eq!(leader.writer.submit(put("a", '1')).await, Err(WriteError::OutcomeUnknown));
    let away = leader.writer.submit(put("a", '2')).await.unwrap_err();
    assert!(matches!(away, WriteError::Unavailable { .. }), "not even begun: {away:?}");
    wire.mode.store(PASS, Ordering::SeqCst);
    let committed = leader.writer.submit(put("a", '3')).await.unwrap();
    assert_eq!((committed.generation, committed.change_seq), (Generation(2), 3));
    let told: Vec<_> = heard.lock().unwrap().iter().map(|c| (c.change_seq, c.generation.get())).collect();
    assert_eq!(told, [(1, 0), (2, 1), (3, 2)], "memory heard of the one whose caller was told nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_lost_to_a_successor_is_unknown_and_then_it_is_over() {
    let test = "a_commit_lost_to_a_successor_is_unknown_and_then_it_is_over";
    let (Some(fleet), Some(cluster)) = (Fleet::new(test).await, cluster(test).await) else { return };
    let wire = Wire::to(cluster, &fleet.url, AT_COMMIT).await;
    let leader = Leader::new(Member::connect(&wire.url, Duration::from_secs(10)).await, WriterHooks::default()).await;
    leader.register("a").await;
    wire.cut(CUT_AFTER, AWAY);
    let writer = leader.writer.clone();
    let write = spawn(async move { writer.submit(put("a", '1')).await });
    let deadline = Instant::now() + SOON;
    while wire.mode.load(Ordering::SeqCst) != AWAY {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let successor = fleet.member().await;
    let _term = successor.lead().await;
    wire.mode.store(PASS, Ordering::SeqCst);
    assert_eq!(write.await.unwrap(), Err(WriteError::OutcomeUnknown));
    assert_eq!(leader.writer.submit(put("a", '2')).await, Err(WriteError::NotLeader));
    leader.task.await.unwrap().unwrap();
}
