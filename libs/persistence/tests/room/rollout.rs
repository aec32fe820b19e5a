//! Roll-outs: a spec and the row that says so are one commit; what was there before comes back as it was.

use pgfleet_api::rollout::{RolloutComputesQuery, RolloutPhase, TargetPhase};
use pgfleet_api::{Generation, RolloutId};
use pgfleet_persistence::{Asker, Change, Hand, NewRollout, NewTarget, RolloutChange, WriteError, WriterHooks};
use serde_json::json;

use crate::support::{Fleet, Leader, hash, id, put, register, spec, value};

fn rollout(name: &str) -> RolloutId {
    name.parse().unwrap()
}

fn asker() -> Asker {
    Asker { actor: "mia".to_owned(), reason: Some("more memory".to_owned()) }
}

fn start(name: &str, computes: &[&str]) -> Change {
    let target = |compute: &&str| NewTarget { compute_id: id(compute), phase: TargetPhase::Waiting, error: None };
    Change::Rollout(RolloutChange::Start(Box::new(NewRollout {
        rollout_id: rollout(name),
        request: json!({"patch": {}}),
        plan: json!({"computes": computes.len()}),
        wave: 0,
        started_by: "mia".to_owned(),
        reason: Some("more memory".to_owned()),
        targets: computes.iter().map(target).collect(),
    })))
}

fn hand(name: &str, ordinal: u32, compute: &str, fill: char, if_match: i64) -> Hand {
    Hand {
        rollout_id: rollout(name),
        ordinal,
        compute_id: id(compute),
        spec: spec(fill),
        if_match: Generation(if_match),
    }
}

fn touch(hand: Hand) -> Change {
    Change::Rollout(RolloutChange::Touch(hand))
}

fn enter(name: &str, phase: RolloutPhase) -> Change {
    let (resumes, halted) = (Some(RolloutPhase::Canary), Some("error_budget"));
    Change::Rollout(RolloutChange::Enter { rollout_id: rollout(name), phase, resumes, halted, wave: 1 })
}

async fn prepared(test: &str) -> Option<(Fleet, Leader)> {
    let fleet = Fleet::new(test).await?;
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    for compute in ["a", "b", "c"] {
        leader.writer.submit(register(compute, Some(spec('1')))).await.unwrap();
    }
    leader.writer.submit_for(asker(), start("r", &["a", "b", "c"])).await.unwrap();
    Some((fleet, leader))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_and_its_row_are_one_commit() {
    let Some((fleet, leader)) = prepared("a_touch_and_its_row_are_one_commit").await else { return };
    let (client, db) = (fleet.client().await, &leader.member.db);
    // The batch's culprit fails alone, and so does its row.
    let wanted =
        vec![touch(hand("r", 0, "a", '2', 1)), touch(hand("r", 1, "b", '2', 7)), touch(hand("r", 2, "c", '2', 1))];
    let answers = leader.writer.submit_all_for(&asker(), wanted).await;
    let generation = |answer: &Result<pgfleet_persistence::Committed, WriteError>| {
        answer.as_ref().map(|done| done.generation.get()).map_err(Clone::clone)
    };
    assert_eq!((generation(&answers[0]), generation(&answers[2])), (Ok(2), Ok(2)));
    let there = WriteError::PreconditionFailed { generation: Generation(1), spec_hash: Some(hash('1')) };
    assert_eq!(generation(&answers[1]), Err(there));
    let record = answers[0].as_ref().unwrap().record.as_ref().unwrap();
    assert_eq!(record.spec_hash, Some(hash('2')), "memory hears of it as of any spec");

    let rows = db.rollout_computes(&rollout("r"), &RolloutComputesQuery::default(), 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.phase.as_str()).collect::<Vec<_>>(), ["in_flight", "waiting", "in_flight"]);
    assert_eq!((rows[0].previous_generation, rows[0].generation), (Some(Generation(1)), Some(Generation(2))));
    assert_eq!(rows[0].spec_hash, Some(hash('2')));
    assert_eq!(rows[1].generation, None);
    let previous = db.rollout_previous(&rollout("r"), &[0, 1, 2]).await.unwrap();
    assert_eq!(previous.len(), 2);
    assert_eq!(previous[0], (0, spec('1').spec.as_ref().clone(), hash('1')));

    let line = value(
        &client,
        "SELECT actor || ' ' || reason || ' ' || (detail->>'op') || ' ' || (detail->>'rollout_id')
                               FROM journal WHERE compute_id = 'a' ORDER BY change_seq DESC LIMIT 1",
    )
    .await;
    assert_eq!(line, "mia more memory rollout_touch r");
    assert_eq!(
        value(&client, "SELECT count(*) FROM journal WHERE compute_id = 'b' AND detail->>'op' ~ 'rollout'").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_comes_back_unless_somebody_was_faster() {
    let name = "what_was_there_before_comes_back_unless_somebody_was_faster";
    let Some((_fleet, leader)) = prepared(name).await else { return };
    for (ordinal, compute) in [(0, "a"), (1, "b")] {
        leader.writer.submit(touch(hand("r", ordinal, compute, '2', 1))).await.unwrap();
    }
    // Touched twice, it still remembers what was there first.
    leader.writer.submit(touch(hand("r", 0, "a", '3', 2))).await.unwrap();
    leader.writer.submit(put("b", '9')).await.unwrap();
    let restore = |ordinal, compute, if_match| {
        Change::Rollout(RolloutChange::Restore(hand("r", ordinal, compute, '1', if_match)))
    };
    let back = leader.writer.submit(restore(0, "a", 3)).await.unwrap();
    assert_eq!((back.generation, back.spec_hash), (Generation(4), Some(hash('1'))));
    let refused = leader.writer.submit(restore(1, "b", 2)).await;
    assert_eq!(refused, Err(WriteError::PreconditionFailed { generation: Generation(3), spec_hash: Some(hash('9')) }));
    let note = RolloutChange::Note {
        rollout_id: rollout("r"),
        ordinal: 1,
        phase: TargetPhase::Overtaken,
        error: Some("changed by somebody else".to_owned()),
    };
    leader.writer.submit(Change::Rollout(note)).await.unwrap();

    let db = &leader.member.db;
    let rows = db.rollout_computes(&rollout("r"), &RolloutComputesQuery::default(), 10).await.unwrap();
    assert_eq!((rows[0].phase, rows[0].restored_generation), (TargetPhase::Returning, Some(Generation(4))));
    assert_eq!(rows[0].previous_generation, Some(Generation(1)));
    assert_eq!(db.rollout_previous(&rollout("r"), &[0]).await.unwrap()[0].2, hash('1'));
    let troubles = db.rollout_troubles(&rollout("r"), 10).await.unwrap();
    assert_eq!(troubles.len(), 1);
    assert_eq!(
        (troubles[0].phase, troubles[0].error.as_deref()),
        (TargetPhase::Overtaken, Some("changed by somebody else"))
    );
    assert_eq!(db.spec(&id("b")).await.unwrap().unwrap().generation, Generation(3), "never written over");
    let mut counts = db.rollout_counts(&rollout("r")).await.unwrap();
    counts.sort();
    assert_eq!(counts, [(TargetPhase::Waiting, 1), (TargetPhase::Returning, 1), (TargetPhase::Overtaken, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn phases_are_kept_and_only_those_under_way_are_read_by_the_next_leader() {
    let name = "phases_are_kept_and_only_those_under_way_are_read_by_the_next_leader";
    let Some((_fleet, leader)) = prepared(name).await else { return };
    let db = &leader.member.db;
    assert_eq!(db.rollouts_under_way().await.unwrap()[0].phase, RolloutPhase::Pending);
    let twice = leader.writer.submit(start("r", &["a"])).await.unwrap_err();
    assert!(matches!(&twice, WriteError::Refused { sqlstate, .. } if sqlstate == "23505"), "{twice:?}");
    leader.writer.submit_for(asker(), enter("r", RolloutPhase::Halted)).await.unwrap();
    let known = db.rollout(&rollout("r")).await.unwrap().unwrap();
    assert_eq!((known.phase, known.resumes, known.wave), (RolloutPhase::Halted, Some(RolloutPhase::Canary), 1));
    assert_eq!((known.halted.as_deref(), known.started_by.as_str()), (Some("error_budget"), "mia"));
    leader.writer.submit(enter("r", RolloutPhase::Done)).await.unwrap();
    assert!(db.rollouts_under_way().await.unwrap().is_empty());
    leader.writer.submit(enter("r", RolloutPhase::RollingBack)).await.unwrap();
    assert_eq!(db.rollouts_under_way().await.unwrap().len(), 1, "a roll-back of what was done is under way again");

    let before = leader.writer.last_change();
    let barrier = leader.writer.submit(Change::Rollout(RolloutChange::Barrier)).await.unwrap();
    assert_eq!((barrier.changed, leader.writer.last_change()), (false, before));

    leader.writer.submit(start("s", &["a"])).await.unwrap();
    let page = db.rollouts(None, 1).await.unwrap();
    assert_eq!(page[0].rollout_id, rollout("s"), "the newest first");
    let rest = db.rollouts(Some(&page[0].rollout_id), 10).await.unwrap();
    assert_eq!(rest.iter().map(|one| one.rollout_id.as_str()).collect::<Vec<_>>(), ["r"]);
    assert_eq!(db.rollout(&rollout("nobody")).await.unwrap(), None);
}
