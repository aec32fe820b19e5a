//! The writer: generations, numbers, refusals, the journal, and closing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgfleet_api::agent::{ComputeState, ErrorDetail, TerminateMode};
use pgfleet_api::policy::{ActionKind, Mode, PutPolicy, SuspendPolicy};
use pgfleet_api::{BootId, Generation};
use pgfleet_persistence::{
    Action, Asker, Caught, Change, Committed, Item, JournalKind, NewSpec, News, Tail, WriteError, Writer, WriterHooks,
};
use serde_json::json;

use crate::support::{
    Fleet, Leader, Member, hash, id, observed, put, register, report, spawn, spec, until, until_waiting, value,
};

async fn leader(fleet: &Fleet) -> Leader {
    Leader::new(fleet.member().await, WriterHooks::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_keeps_its_generation_and_writes_nothing() {
    let Some(fleet) = Fleet::new("the_same_content_keeps_its_generation_and_writes_nothing").await else { return };
    let leader = leader(&fleet).await;
    let first = leader.writer.submit(register("a", Some(spec('1')))).await.unwrap();
    assert_eq!((first.generation, first.changed), (Generation(1), true));
    let client = fleet.client().await;
    let version = value(&client, "SELECT xmin::text FROM computes").await;

    for same in [put("a", '1'), register("a", Some(spec('1'))), register("a", None)] {
        let again = leader.writer.submit(same).await.unwrap();
        assert_eq!((again.generation, again.changed), (Generation(1), false));
        assert_eq!(again.change_seq, first.change_seq);
        let record = again.record.unwrap();
        assert_eq!(record.spec_hash, Some(hash('1')));
        assert_eq!(leader.member.db.spec_text(&id("a"), &hash('1')).await.unwrap(), Some(spec('1').spec));
        assert_eq!(record, first.record.clone().unwrap(), "what is answered is what is there");
    }
    assert_eq!(value(&client, "SELECT xmin::text FROM computes").await, version, "a new row version was written");

    let second = leader.writer.submit(put("a", '2')).await.unwrap();
    assert_eq!((second.generation, second.changed, second.spec_hash), (Generation(2), true, Some(hash('2'))));
    assert_eq!(leader.member.db.spec(&id("a")).await.unwrap().unwrap().generation, Generation(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_without_a_spec_leaves_the_spec_alone() {
    let Some(fleet) = Fleet::new("a_registration_without_a_spec_leaves_the_spec_alone").await else { return };
    let leader = leader(&fleet).await;
    leader.writer.submit(register("a", Some(spec('1')))).await.unwrap();
    let moved = Change::Register {
        compute_id: id("a"),
        agent_url: "http://10.0.0.9:3080".to_owned(),
        labels: BTreeMap::new(),
        spec: None,
    };
    let committed = leader.writer.submit(moved).await.unwrap();
    assert_eq!((committed.generation, committed.changed), (Generation(1), true));
    let loaded = leader.member.db.load().await.unwrap();
    assert_eq!(loaded.computes, [committed.record.unwrap()], "memory and database agree");
    assert_eq!(loaded.computes[0].spec_hash, Some(hash('1')));
    assert_eq!(fleet.stored_spec("a").await, spec('1').spec.value().unwrap());
    assert_eq!(loaded.computes[0].agent_url, "http://10.0.0.9:3080");
}

#[tokio::test(flavor = "multi_thread")]
async fn if_match_refuses_and_names_what_is_there() {
    let Some(fleet) = Fleet::new("if_match_refuses_and_names_what_is_there").await else { return };
    let leader = leader(&fleet).await;
    leader.writer.submit(register("a", Some(spec('1')))).await.unwrap();
    let wanting = |fill, generation| Change::PutSpec {
        compute_id: id("a"),
        spec: spec(fill),
        if_match: Some(Generation(generation)),
    };
    let refused = leader.writer.submit(wanting('2', 7)).await.unwrap_err();
    assert_eq!(refused, WriteError::PreconditionFailed { generation: Generation(1), spec_hash: Some(hash('1')) });
    assert_eq!(leader.writer.submit(wanting('2', 1)).await.unwrap().generation, Generation(2));
    // Of two that believe the same, one goes through.
    let (one, two) = tokio::join!(leader.writer.submit(wanting('3', 2)), leader.writer.submit(wanting('4', 2)));
    assert_eq!(i32::from(one.is_ok()) + i32::from(two.is_ok()), 1, "{one:?} {two:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_made_again_goes_on_from_its_tombstone() {
    let Some(fleet) = Fleet::new("a_compute_made_again_goes_on_from_its_tombstone").await else { return };
    let leader = leader(&fleet).await;
    let unknown = [put("a", '1'), Change::Delete { compute_id: id("a") }];
    for change in unknown.clone() {
        assert_eq!(leader.writer.submit(change).await, Err(WriteError::UnknownCompute));
    }
    leader.writer.submit(register("a", Some(spec('1')))).await.unwrap();
    leader.writer.submit(put("a", '2')).await.unwrap();
    leader.writer.submit(report("a", &observed(BootId::generate(), 1, ComputeState::Running))).await.unwrap();
    let deleted = leader.writer.submit(Change::Delete { compute_id: id("a") }).await.unwrap();
    assert_eq!((deleted.deleted, deleted.change_seq, deleted.generation), (true, 4, Generation(2)));
    for change in unknown {
        assert_eq!(leader.writer.submit(change).await, Err(WriteError::UnknownCompute));
    }
    let loaded = leader.member.db.load().await.unwrap();
    assert!(loaded.computes.is_empty() && loaded.observed.is_empty(), "{loaded:?}");
    assert_eq!(leader.member.db.spec(&id("a")).await.unwrap(), None);
    let client = fleet.client().await;
    assert_eq!(value(&client, "SELECT deleted_at IS NOT NULL AND change_seq = 4 FROM computes").await, true);

    let revived = leader.writer.submit(register("a", None)).await.unwrap();
    assert_eq!((revived.generation, revived.spec_hash), (Generation(2), None), "no spec came with it");
    let revived = leader.writer.submit(put("a", '2')).await.unwrap();
    assert_eq!(
        revived.generation,
        Generation(3),
        "never a generation twice, not even with content that was there before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn change_seq_grows_in_commit_order() {
    let Some(fleet) = Fleet::new("change_seq_grows_in_commit_order").await else { return };
    let heard: Arc<Mutex<Vec<Committed>>> = Arc::default();
    let on_commit = {
        let heard = Arc::clone(&heard);
        Arc::new(move |committed: &Committed| heard.lock().unwrap().push(committed.clone()))
    };
    let hooks = WriterHooks { on_commit: Some(on_commit), ..WriterHooks::default() };
    let leader = Leader::new(fleet.member().await, hooks).await;
    let mut callers = Vec::new();
    for caller in 0..20 {
        let writer = leader.writer.clone();
        callers.push(spawn(async move {
            let mut numbers = Vec::new();
            for round in 0..10 {
                let name = format!("c{}", (caller + round) % 7);
                let fill = char::from_digit((caller * 10 + round) % 16, 16).unwrap();
                numbers.push(writer.submit(register(&name, Some(spec(fill)))).await.unwrap());
            }
            numbers
        }));
    }
    let mut answered = Vec::new();
    for caller in callers {
        let numbers = caller.await.unwrap();
        assert!(numbers.is_sorted_by_key(|c| c.change_seq), "a caller saw the numbers fall");
        answered.extend(numbers.into_iter().filter(|c| c.changed));
    }
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    let numbers: Vec<i64> = heard.iter().map(|c| c.change_seq).collect();
    assert_eq!(numbers, (1..=i64::try_from(numbers.len()).unwrap()).collect::<Vec<_>>(), "no gap and no double");
    assert_eq!(answered.len(), heard.len());
    // Memory that only follows `on_commit` equals a fresh load.
    let memory: BTreeMap<_, _> =
        heard.into_iter().filter_map(|c| c.record).map(|r| (r.compute_id.clone(), r)).collect();
    let loaded = leader.member.db.load().await.unwrap();
    assert_eq!(memory.into_values().collect::<Vec<_>>(), loaded.computes);
    assert_eq!(loaded.change_seq, i64::try_from(numbers.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_fails_alone() {
    let Some(fleet) = Fleet::new("a_refused_change_fails_alone").await else { return };
    let leader = leader(&fleet).await;
    let nul = NewSpec::new(&json!({ "name": "a\0b" }), hash('e'));
    let list = NewSpec::new(&json!(["no object"]), hash('f'));
    let bad_url = Change::Register {
        compute_id: id("c13"),
        agent_url: "http://a\0b".to_owned(),
        labels: BTreeMap::new(),
        spec: None,
    };
    let mut changes: Vec<Change> = (0..16).map(|n| register(&format!("c{n:02}"), None)).collect();
    changes[3] = register("c03", Some(nul));
    changes[4] = register("c04", Some(list));
    changes[13] = bad_url;
    let mut callers = Vec::new();
    for change in changes {
        let writer = leader.writer.clone();
        callers.push(spawn(async move { writer.submit(change).await }));
    }
    for (n, caller) in callers.into_iter().enumerate() {
        let answer = caller.await.unwrap();
        let expected = match n {
            3 => Some("22P05"),
            4 => Some("23514"),
            13 => Some("22021"),
            _ => None,
        };
        match (answer, expected) {
            (Ok(_), None) => {}
            (Err(WriteError::Refused { sqlstate, .. }), Some(code)) => assert_eq!(sqlstate, code, "change {n}"),
            (answer, expected) => panic!("change {n}: {answer:?}, expected {expected:?}"),
        }
    }
    let loaded = leader.member.db.load().await.unwrap();
    assert_eq!((loaded.computes.len(), loaded.change_seq), (13, 13));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_and_its_line_in_the_journal_are_one_commit() {
    let Some(fleet) = Fleet::new("a_wish_and_its_line_in_the_journal_are_one_commit").await else { return };
    let leader = leader(&fleet).await;
    let asker = || Asker { actor: "ann".to_owned(), reason: Some("because".to_owned()) };
    let mut seqs = Vec::new();
    for change in [register("a", None), put("a", '1'), Change::Delete { compute_id: id("a") }] {
        let committed = leader.writer.submit_for(asker(), change).await.unwrap();
        seqs.push(committed.change_seq);
    }
    let unchanged = leader.writer.submit_for(asker(), Change::Delete { compute_id: id("a") }).await;
    assert_eq!(unchanged, Err(WriteError::UnknownCompute));
    let mut journal = leader.member.db.history(&id("a"), 10).await.unwrap();
    journal.reverse();
    let told: Vec<_> = journal.iter().map(|line| (line.change_seq, line.detail["op"].as_str().unwrap())).collect();
    assert_eq!(told, [(seqs[0], "register"), (seqs[1], "put_spec"), (seqs[2], "delete")]);
    for line in &journal {
        assert_eq!((line.actor.as_str(), line.reason.as_deref()), ("ann", Some("because")));
        assert_eq!(line.kind, JournalKind::Action);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_written_on_news_only_and_transitions_are_journalled() {
    let Some(fleet) = Fleet::new("reports_are_written_on_news_only_and_transitions_are_journalled").await else {
        return;
    };
    let leader = leader(&fleet).await;
    let boot = BootId::generate();
    let first = observed(boot, 5, ComputeState::Init);
    assert_eq!(leader.writer.submit(report("a", &first)).await, Err(WriteError::UnknownCompute));
    leader.register("a").await;
    assert!(leader.writer.submit(report("a", &first)).await.unwrap().changed);
    assert!(!leader.writer.submit(report("a", &first)).await.unwrap().changed, "the same again");
    let older = observed(boot, 4, ComputeState::Empty);
    let answer = leader.writer.submit(report("a", &older)).await.unwrap();
    assert_eq!((answer.changed, answer.observed), (false, Some(first.clone())), "an overtaken report");
    let counted = observed(boot, 6, ComputeState::Init);
    assert!(leader.writer.submit(report("a", &counted)).await.unwrap().changed);
    let running = observed(boot, 7, ComputeState::Running);
    leader.writer.submit(report("a", &running)).await.unwrap();
    let mut reborn = observed(BootId::generate(), 1, ComputeState::Running);
    let failure = |n: u32| ErrorDetail {
        phase: "roles".to_owned(),
        object: Some(format!("r{n}")),
        sqlstate: Some("42939".to_owned()),
        message: "reserved".to_owned(),
    };
    reborn.failures = (0..25).map(failure).collect();
    leader.writer.submit(report("a", &reborn)).await.unwrap();
    let action = Action {
        compute_id: Some(id("a")),
        actor: "ops@example.org".to_owned(),
        reason: Some("ticket 7".to_owned()),
        detail: json!({ "delete": true }),
    };
    let told = leader.writer.submit(Change::Journal(action)).await.unwrap();

    let db = &leader.member.db;
    assert_eq!(db.load().await.unwrap().observed, [(id("a"), reborn)]);
    let journal = db.history(&id("a"), 10).await.unwrap();
    let lines: Vec<_> = journal.iter().map(|e| (e.kind, e.detail["from"].clone(), e.detail["to"].clone())).collect();
    assert_eq!(
        lines,
        [
            (JournalKind::Action, json!(null), json!(null)),
            (JournalKind::Transition, json!("running"), json!("running")),
            (JournalKind::Transition, json!("init"), json!("running")),
            (JournalKind::Transition, json!(null), json!("init")),
        ]
    );
    let named = &journal[1].detail["failures"];
    assert_eq!((named.as_array().map(Vec::len), &journal[1].detail["failures_total"]), (Some(20), &json!(25)));
    assert_eq!(named[19], json!({"phase": "roles", "object": "r19", "sqlstate": "42939", "message": "reserved"}));
    assert_eq!(journal[0].change_seq, told.change_seq);
    assert_eq!((journal[0].actor.as_str(), journal[0].reason.as_deref()), ("ops@example.org", Some("ticket 7")));
    assert_eq!(journal[0].term, leader.term.term());
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_writes_what_was_handed_in_and_refuses_what_comes_later() {
    let Some(fleet) = Fleet::new("closing_writes_what_was_handed_in_and_refuses_what_comes_later").await else {
        return;
    };
    let leader = leader(&fleet).await;
    let mut callers = Vec::new();
    for n in 0..50 {
        let writer = leader.writer.clone();
        callers.push(spawn(async move { writer.submit(register(&format!("c{n}"), None)).await }));
    }
    let first = callers.remove(0).await.unwrap();
    assert!(first.is_ok());
    assert!(leader.writer.close(Duration::from_secs(10)).await);
    assert_eq!(leader.writer.submit(register("late", None)).await, Err(WriteError::NotLeader));
    let mut written = 1;
    for caller in callers {
        match caller.await.unwrap() {
            Ok(_) => written += 1,
            Err(error) => assert_eq!(error, WriteError::NotLeader),
        }
    }
    assert_eq!(leader.member.db.load().await.unwrap().computes.len(), written, "the answers were true");
    leader.token.cancel();
    leader.task.await.unwrap().unwrap();
    assert_eq!(Arc::strong_count(&leader.term), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_cancels_nothing() {
    let Some(fleet) = Fleet::new("a_caller_that_goes_away_cancels_nothing").await else { return };
    let leader = leader(&fleet).await;
    let (writer, mut task_free) = (leader.writer.clone(), leader.member.session());
    {
        let mut gone = Box::pin(writer.submit(register("a", Some(spec('1')))));
        // One poll hands it in; then its caller is gone.
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(gone.as_mut().poll(cx).is_pending()));
        assert!(polled.await);
    }
    assert!(leader.writer.close(Duration::from_secs(10)).await);
    assert_eq!(leader.member.db.load().await.unwrap().computes.len(), 1);
    assert!(task_free.read().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_starts_from_a_stale_load_stops() {
    let Some(fleet) = Fleet::new("a_writer_that_starts_from_a_stale_load_stops").await else { return };
    let leader = leader(&fleet).await;
    leader.register("a").await;
    let db = Arc::clone(&leader.member.db);
    let (writer, task) = Writer::channel(db, Arc::clone(&leader.term), WriterHooks::default(), 0);
    let task = spawn(task.run(leader.token.clone()));
    let error = writer.submit(register("b", None)).await.unwrap_err();
    assert!(matches!(error, WriteError::Unavailable { .. }), "{error:?}");
    let end = task.await.unwrap().unwrap_err();
    assert!(matches!(end, pgfleet_persistence::DbError::CursorMoved { expected: 0, .. }), "{end:?}");
    assert_eq!(leader.member.db.load().await.unwrap().computes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_tried_again() {
    let Some(fleet) = Fleet::new("a_deadlock_is_tried_again").await else { return };
    let (admin, mut hand) = (fleet.client().await, fleet.client().await);
    // A session looks for a deadlock once per wait. The writer looks so late that the hand surely waits as well by then,
    // but before its lock_timeout, a fifth of the lease; the hand never looks, so it cannot be the victim.
    let database: String = admin.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    admin.batch_execute(&format!("ALTER DATABASE \"{database}\" SET deadlock_timeout = '3s'")).await.unwrap();
    hand.batch_execute("SET deadlock_timeout = '1h'").await.unwrap();
    let member = Member::connect(&fleet.url, Duration::from_secs(40)).await;
    let leader = Leader::new(member, WriterHooks::default()).await;
    leader.register("a").await;
    let repair = hand.transaction().await.unwrap();
    repair.execute("UPDATE computes SET labels = labels", &[]).await.unwrap();
    let writer = leader.writer.clone();
    let write = spawn(async move { writer.submit(put("a", '1')).await });
    until_waiting(&admin, 1).await;
    // The writer holds the cursor and waits for the row; this holds the row and waits for the cursor.
    repair.execute("UPDATE change_cursor SET last_change = last_change", &[]).await.expect("the writer is the victim");
    repair.commit().await.unwrap();
    let committed = write.await.unwrap().unwrap();
    assert_eq!((committed.generation, committed.change_seq), (Generation(1), 2));
    let deadlocks = "SELECT deadlocks = 1 FROM pg_stat_database WHERE datname = current_database()";
    until(&admin, "the deadlock was one", deadlocks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_member_writes_and_loads_on_sessions_it_has() {
    let Some(fleet) = Fleet::new("a_warm_member_writes_and_loads_on_sessions_it_has").await else { return };
    let member = fleet.member().await;
    member.db.warm_up().await.unwrap();
    let mut tail = Tail::new(Arc::clone(&member.db));
    tail.load().await.unwrap();
    let term = member.lead().await;
    let client = fleet.client().await;
    let sessions = async || -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgfleet/%'";
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let before = sessions().await;
    let (writer, task) = Writer::channel(Arc::clone(&member.db), Arc::new(term), WriterHooks::default(), 0);
    let writing = tokio::task::JoinSet::from_iter([task.run(tokio_util::sync::CancellationToken::new())]);
    writer.submit(register("a", Some(spec('1')))).await.unwrap();
    let caught = tail.catch_up(0).await.unwrap();
    assert!(matches!(caught, Caught::News(News { change_seq: 1, items }) if items.len() == 1));
    // One that was there before, the claim's, may just be leaving.
    let opened: Vec<i32> = sessions().await.into_iter().filter(|pid| !before.contains(pid)).collect();
    assert!(opened.is_empty(), "a new session was opened inside the gap: {opened:?} beside {before:?}");
    drop(writing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_journalled_outlives_specs_and_ends_with_the_compute() {
    let Some(fleet) = Fleet::new("a_policy_is_journalled_outlives_specs_and_ends_with_the_compute").await else {
        return;
    };
    let leader = leader(&fleet).await;
    let set =
        |suspend| Change::SetPolicy { compute_id: id("a"), policy: PutPolicy { suspend: Some(suspend), mode: None } };
    let early = leader.writer.submit(set(SuspendPolicy::WhenIdle)).await;
    assert_eq!(early, Err(WriteError::UnknownCompute));
    leader.writer.submit(register("a", Some(spec('1')))).await.unwrap();
    let mut tail = Tail::new(Arc::clone(&leader.member.db));
    let cursor = tail.load().await.unwrap().change_seq;

    let asker = Asker { actor: "olga".to_owned(), reason: Some("only used by day".to_owned()) };
    let on = leader.writer.submit_for(asker.clone(), set(SuspendPolicy::WhenIdle)).await.unwrap();
    let record = on.record.clone().unwrap();
    assert_eq!((on.changed, on.generation, record.policy.suspend), (true, Generation(1), SuspendPolicy::WhenIdle));
    assert_eq!(record.spec_hash, Some(hash('1')));
    assert_eq!(fleet.stored_spec("a").await, spec('1').spec.value().unwrap(), "the spec stays");
    let again = leader.writer.submit_for(asker, set(SuspendPolicy::WhenIdle)).await.unwrap();
    assert_eq!((again.changed, again.record), (false, on.record));
    let Caught::News(news) = tail.catch_up(cursor).await.unwrap() else { panic!("it is followed") };
    assert!(matches!(&news.items[..], [Item::Compute { record: seen, .. }] if *seen == record), "{news:?}");
    let lines = leader.member.db.history(&id("a"), 9).await.unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].detail, json!({"op": "put_policy", "policy": {"suspend": "when_idle", "mode": "active"}}));
    assert_eq!((lines[0].actor.as_str(), lines[0].reason.as_deref()), ("olga", Some("only used by day")));

    // What a later build keeps there survives a write of this one; what it cannot read does nothing.
    let client = fleet.client().await;
    client.batch_execute("UPDATE computes SET policy = policy || '{\"later\": \"x\"}'").await.unwrap();
    let next = leader.writer.submit(put("a", '2')).await.unwrap();
    assert_eq!(next.record.unwrap().policy.suspend, SuspendPolicy::WhenIdle);
    leader.writer.submit(set(SuspendPolicy::Never)).await.unwrap();
    assert_eq!(
        value(&client, "SELECT policy FROM computes").await,
        json!({"suspend": "never", "mode": "active", "pending": null, "later": "x"})
    );
    client.batch_execute("UPDATE computes SET policy = '{\"suspend\": \"at_night\"}'").await.unwrap();
    assert_eq!(leader.member.db.load().await.unwrap().computes[0].policy.suspend, SuspendPolicy::Never);
    leader.writer.submit(put("a", '3')).await.unwrap();
    assert_eq!(value(&client, "SELECT policy FROM computes").await, json!({"suspend": "at_night"}));

    leader.writer.submit(Change::Delete { compute_id: id("a") }).await.unwrap();
    let revived = leader.writer.submit(register("a", None)).await.unwrap();
    assert_eq!(revived.record.unwrap().policy.suspend, SuspendPolicy::Never);
    assert_eq!(value(&client, "SELECT policy FROM computes").await, json!({}));
}

/// An action is an intent: a generation of its own under the same content. It is done once, a later intent takes its place,
/// and a policy that holds the compute back refuses it.
#[tokio::test(flavor = "multi_thread")]
async fn an_action_takes_a_generation_and_is_done_once() {
    let Some(fleet) = Fleet::new("an_action_takes_a_generation_and_is_done_once").await else { return };
    let leader = leader(&fleet).await;
    let act = |action: Option<ActionKind>| Change::Act {
        compute_id: id("a"),
        action: action.map(|action| (action, TerminateMode::Fast)),
    };
    let done = |generation| Change::Acted { compute_id: id("a"), generation: Generation(generation) };
    let write = async |change| {
        let asker = Asker { actor: "olga".to_owned(), reason: None };
        leader.writer.submit_for(asker, change).await
    };
    assert_eq!(write(act(None)).await, Err(WriteError::UnknownCompute));
    write(register("a", None)).await.unwrap();
    assert!(!write(act(None)).await.unwrap().changed, "nothing was asked for yet");
    write(put("a", '1')).await.unwrap();

    let refreshed = write(act(None)).await.unwrap();
    let record = refreshed.record.unwrap();
    assert_eq!((record.generation, record.spec_hash, record.policy.pending), (Generation(2), Some(hash('1')), None));
    assert_eq!(record.spec.as_deref(), Some(&*spec('1').spec));

    let asked = write(act(Some(ActionKind::Terminate))).await.unwrap();
    let pending = asked.record.unwrap().policy.pending.unwrap();
    assert_eq!((pending.action, pending.generation), (ActionKind::Terminate, Generation(3)));
    assert_eq!(leader.member.db.load().await.unwrap().computes[0].policy.pending, Some(pending), "it is stored");
    let lift = |seen, above| Change::Lift {
        compute_id: id("a"),
        seen: Generation(seen),
        above: Generation(above),
        agent_hash: None,
    };
    let lifted = write(lift(3, 7)).await.unwrap().record.unwrap();
    assert_eq!(lifted.policy.wanted(Generation(8)).map(|pending| pending.action), Some(ActionKind::Terminate));
    assert!(!write(done(3)).await.unwrap().changed, "that one was passed over");
    let ended = write(done(8)).await.unwrap();
    assert_eq!((ended.generation, ended.record.unwrap().policy.pending), (Generation(8), None));
    assert!(!write(done(8)).await.unwrap().changed, "once");

    write(act(Some(ActionKind::Delete))).await.unwrap();
    write(put("a", '2')).await.unwrap();
    assert!(!write(done(9)).await.unwrap().deleted, "a later spec has taken its place");
    let pause = PutPolicy { mode: Some(Mode::Pause), suspend: None };
    write(Change::SetPolicy { compute_id: id("a"), policy: pause }).await.unwrap();
    assert!(!write(act(Some(ActionKind::Delete))).await.unwrap().changed, "hands off");
    let active = PutPolicy { mode: Some(Mode::Active), suspend: None };
    write(Change::SetPolicy { compute_id: id("a"), policy: active }).await.unwrap();
    let last = write(act(Some(ActionKind::Delete))).await.unwrap().generation;
    let gone = write(done(last.get())).await.unwrap();
    assert!(gone.deleted && gone.changed);
    assert_eq!(write(done(last.get())).await, Err(WriteError::UnknownCompute));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lift_passes_over_what_an_agent_has_and_says_so_in_the_journal() {
    let Some(fleet) = Fleet::new("a_lift_passes_over_what_an_agent_has_and_says_so_in_the_journal").await else {
        return;
    };
    let leader = leader(&fleet).await;
    let first = leader.writer.submit(register("a", Some(spec('1')))).await.unwrap().record.unwrap();
    leader.register("bare").await;
    let lift = |compute: &str, seen, above| Change::Lift {
        compute_id: id(compute),
        seen: Generation(seen),
        above: Generation(above),
        agent_hash: Some(hash('9')),
    };
    let asker = || Asker { actor: "controller".to_owned(), reason: Some("lost_commit".to_owned()) };
    // Judged from another generation than there is, below it, or without a spec: nothing.
    for late in [lift("a", 2, 7), lift("a", 1, 0), lift("bare", 0, 7)] {
        let committed = leader.writer.submit_for(asker(), late).await.unwrap();
        assert_eq!((committed.changed, committed.record), (false, None));
    }
    let unknown = leader.writer.submit_for(asker(), lift("nobody", 1, 7)).await;
    assert_eq!(unknown.unwrap_err(), WriteError::UnknownCompute);

    let lifted = leader.writer.submit_for(asker(), lift("a", 1, 7)).await.unwrap();
    assert_eq!((lifted.generation, lifted.changed, &lifted.spec_hash), (Generation(8), true, &first.spec_hash));
    let record = lifted.record.unwrap();
    assert_eq!((record.created_at, &record.labels), (first.created_at, &first.labels));
    assert_eq!(fleet.stored_spec("a").await, spec('1').spec.value().unwrap(), "the spec stays");
    let loaded = leader.member.db.load().await.unwrap();
    assert!(loaded.computes.contains(&record), "what is answered is what is there");
    let client = fleet.client().await;
    let sql = "SELECT json_agg(json_build_object('by', actor, 'why', reason, 'seq', change_seq, 'detail', detail)) FROM journal
               WHERE detail->>'op' = 'lift'";
    let line = json!({"by": "controller", "why": "lost_commit", "seq": record.change_seq, "detail": {
        "op": "lift", "agent_generation": 7, "agent_spec_hash": hash('9'), "database_generation": 1, "generation": 8,
        "spec_hash": hash('1'),
    }});
    assert_eq!(value(&client, sql).await, json!([line]));
    // A spec goes on from there, and the same generation under another content is passed over, too.
    assert_eq!(leader.writer.submit(put("a", '2')).await.unwrap().generation, Generation(9));
    assert_eq!(leader.writer.submit_for(asker(), lift("a", 9, 9)).await.unwrap().generation, Generation(10));
}
