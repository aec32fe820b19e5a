//! What enters the map, in which order, and that the counts follow it.

use chrono::DateTime;
use pgfleet_api::{BootId, SpecHash};
use pgfleet_persistence::Item;

use super::*;

fn id(n: u32) -> ComputeId {
    format!("c{n}").parse().unwrap()
}

fn record(n: u32, generation: i64, change_seq: i64) -> ComputeRecord {
    ComputeRecord {
        compute_id: id(n),
        agent_url: String::new(),
        labels: Arc::new([("env".to_owned(), if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned())].into()),
        generation: Generation(generation),
        spec_hash: None,
        suspend_timeout_s: None,
        policy: pgfleet_api::policy::Policy::default(),
        change_seq,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
    }
}

fn seen(boot: u128, status_seq: u64, state: ComputeState, applied: i64) -> Observed {
    Observed {
        state,
        boot_id: BootId(uuid::Uuid::from_u128(boot)),
        status_seq,
        term: None,
        generation: Some(Generation(applied)),
        applied_generation: Some(Generation(applied)),
        rejected_generation: None,
        spec_hash: None,
        pending_restart: vec![],
        ignored_fields: vec![],
        error: None,
        error_detail: None,
        failures: Vec::new(),
        postgres: None,
    }
}

/// The counts as a walk over the map would make them.
fn walked(snapshot: &Snapshot) -> Tally {
    let mut tally = Tally::default();
    for entry in snapshot.page(&Filter::default(), None, usize::MAX).0 {
        tally.count(&entry, 1);
    }
    tally
}

#[test]
fn a_record_never_goes_back() {
    let snapshot = Snapshot::default();
    snapshot.committed(record(1, 2, 7));
    snapshot.committed(record(1, 1, 6));
    assert_eq!(snapshot.get(&id(1)).unwrap().record.generation, Generation(2));
}

#[test]
fn an_overtaken_observation_is_ignored_and_another_boot_is_not() {
    let snapshot = Snapshot::loaded(vec![record(1, 3, 1)], vec![(id(1), seen(1, 5, ComputeState::Running, 2))]);
    assert!(!snapshot.observed(&id(1), Call::Probe, seen(1, 4, ComputeState::Init, 1)));
    assert!(!snapshot.observed(&id(1), Call::Probe, seen(1, 5, ComputeState::Running, 2)), "the same is no news");
    assert!(snapshot.observed(&id(1), Call::Probe, seen(2, 1, ComputeState::Init, 2)));
    assert!(!snapshot.observed(&id(9), Call::Probe, seen(2, 1, ComputeState::Init, 2)), "unknown");
}

/// The agent refused the push and has given the generation up: whoever probes it first finds nothing left to do.
#[test]
fn a_failed_push_is_over_when_nothing_is_left_to_do() {
    let hash: Option<SpecHash> = "7".repeat(64).parse().ok();
    let snapshot = Snapshot::loaded(vec![ComputeRecord { spec_hash: hash.clone(), ..record(1, 2, 1) }], vec![]);
    snapshot.failed(&id(1), Call::Push, "invalid", Some(ErrorCode::InvalidBody));
    snapshot.observed(&id(1), Call::Probe, seen(1, 1, ComputeState::Running, 1));
    assert!(snapshot.get(&id(1)).unwrap().trouble.is_some(), "it is to be pushed still");
    let given_up = Observed {
        generation: Some(Generation(2)),
        rejected_generation: Some(Generation(2)),
        spec_hash: hash,
        ..seen(1, 2, ComputeState::Running, 1)
    };
    snapshot.observed(&id(1), Call::Probe, given_up);
    assert!(snapshot.get(&id(1)).unwrap().trouble.is_none());
}

/// A look from before the end, however late it comes in, does not bring an agent back that is gone.
#[test]
fn who_ended_stays_ended() {
    let snapshot = Snapshot::loaded(vec![record(1, 1, 1)], vec![(id(1), seen(1, 5, ComputeState::Running, 1))]);
    snapshot.observed(&id(1), Call::Probe, seen(1, 7, ComputeState::TerminationPendingImmediate, 1));
    snapshot.ended(&id(1));
    assert!(!snapshot.observed(&id(1), Call::Probe, seen(1, 8, ComputeState::TerminationPendingImmediate, 1)));
    assert_eq!(snapshot.get(&id(1)).unwrap().observed.as_ref().unwrap().state, ComputeState::Terminated);
    assert!(snapshot.observed(&id(1), Call::Probe, seen(2, 1, ComputeState::Init, 1)), "another life");
}

#[test]
fn a_good_probe_does_not_hide_a_failed_push() {
    let hash: Option<SpecHash> = "7".repeat(64).parse().ok();
    let snapshot = Snapshot::loaded(vec![ComputeRecord { spec_hash: hash, ..record(1, 2, 1) }], vec![]);
    snapshot.failed(&id(1), Call::Push, "refused", None);
    snapshot.observed(&id(1), Call::Probe, seen(1, 1, ComputeState::Running, 0));
    assert_eq!(snapshot.get(&id(1)).unwrap().view().last_error.as_deref(), Some("refused"));
    snapshot.observed(&id(1), Call::Push, seen(1, 1, ComputeState::Running, 0));
    assert_eq!(snapshot.get(&id(1)).unwrap().view().last_error, None);
    snapshot.failed(&id(1), Call::Probe, "away", None);
    snapshot.observed(&id(1), Call::Probe, seen(1, 1, ComputeState::Running, 0));
    assert_eq!(snapshot.get(&id(1)).unwrap().view().last_error, None);
}

#[test]
fn the_tally_equals_a_walk_whatever_happens() {
    let snapshot =
        Snapshot::loaded(vec![record(1, 2, 1), record(2, 1, 2)], vec![(id(1), seen(1, 1, ComputeState::Running, 1))]);
    assert_eq!((snapshot.tally().lagging, snapshot.tally().lag_generations, snapshot.tally().unknown), (2, 2, 1));
    snapshot.committed(record(3, 5, 3));
    snapshot.committed(record(1, 4, 4));
    snapshot.observed(&id(3), Call::Push, seen(1, 1, ComputeState::Configuration, 2));
    snapshot.observed(&id(1), Call::Probe, seen(1, 2, ComputeState::Running, 4));
    assert_eq!(snapshot.tally(), walked(&snapshot));
    snapshot.deleted(&id(3));
    snapshot.deleted(&id(3));
    assert_eq!(snapshot.tally(), walked(&snapshot));
}

#[test]
fn what_is_not_saved_is_offered_until_it_is() {
    let snapshot = Snapshot::loaded(vec![record(1, 1, 1)], vec![]);
    assert!(snapshot.take_unsaved().is_empty());
    snapshot.observed(&id(1), Call::Probe, seen(1, 1, ComputeState::Running, 1));
    assert_eq!(snapshot.take_unsaved().len(), 1);
    assert!(snapshot.take_unsaved().is_empty());
    snapshot.keep_unsaved(id(1));
    snapshot.keep_unsaved(id(9));
    assert_eq!(snapshot.take_unsaved().len(), 1);
}

#[test]
fn pages_follow_each_other_without_gap_or_double() {
    let snapshot = Snapshot::loaded((1..=9).map(|n| record(n, 1, 1)).collect(), vec![]);
    let filter = Filter { label: Some(("env".into(), "odd".into())), ..Filter::default() };
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let (page, more) = snapshot.page(&filter, cursor.as_ref(), 2);
        found.extend(page.iter().map(|entry| entry.record.compute_id.clone()));
        cursor = found.last().cloned();
        if !more {
            break;
        }
    }
    assert_eq!(found, [1, 3, 5, 7, 9].map(id));
}

fn ids_of(page: &[Arc<Entry>]) -> Vec<ComputeId> {
    page.iter().map(|entry| entry.record.compute_id.clone()).collect()
}

/// Whoever is there from the first page to the last is listed once, whatever is deleted and made meanwhile, the compute
/// under the cursor included.
#[test]
fn a_list_goes_on_over_deletes_without_gap_or_double() {
    let wide = |n: u32| -> ComputeId { format!("c{n:04}").parse().unwrap() };
    let named = |n: u32| ComputeRecord { compute_id: wide(n), ..record(n, 1, 1) };
    let filters = [
        Filter::default(),
        Filter { lagging: Some(true), ..Filter::default() },
        Filter { label: Some(("env".into(), "odd".into())), ..Filter::default() },
    ];
    for (filter, step) in filters.iter().zip([1, 1, 2]) {
        let snapshot = Snapshot::loaded((0..400).map(|n| named(n * 2 + 1)).collect(), vec![]);
        let (mut found, mut cursor, mut round) = (Vec::new(), None, 0);
        loop {
            let (page, more) = snapshot.page(filter, cursor.as_ref(), 7);
            found.extend(ids_of(&page));
            cursor = found.last().cloned();
            // The cursor's own compute goes, and one long before; others come before and behind.
            snapshot.deleted(found.last().unwrap());
            snapshot.deleted(&found[found.len() / 2]);
            snapshot.committed(named(round * 2));
            snapshot.committed(named(4000 + round * 2));
            round += 1;
            if !more || round > 200 {
                break;
            }
        }
        let mut once = found.clone();
        once.sort();
        once.dedup();
        assert_eq!(once, found, "in order and each once");
        for n in (0..400).map(|n| n * 2 + 1).filter(|n| n % step == step - 1 || step == 1) {
            assert!(found.contains(&wide(n)), "{n} was there all the time");
        }
    }
}

#[test]
fn a_look_is_bounded_and_a_rare_thing_is_found_all_the_same() {
    let wide = |n: u32| -> ComputeId { format!("c{n:05}").parse().unwrap() };
    let snapshot = Snapshot::loaded(
        (0..5000).map(|n| ComputeRecord { compute_id: wide(n), ..record(n, 1, 1) }).collect(),
        (0..5000).map(|n| (wide(n), seen(1, 1, ComputeState::Running, 1))).collect(),
    );
    let rare = Filter { label: Some(("env".into(), "none".into())), ..Filter::default() };
    let (mut looks, mut after) = (0, None);
    loop {
        let piece = snapshot.piece(&rare, after.as_ref(), 10);
        assert!(piece.entries.is_empty());
        looks += 1;
        after = piece.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(looks, 5);

    snapshot.observed(&wide(4321), Call::Probe, seen(1, 2, ComputeState::Failed, 0));
    for filter in [
        Filter { state: Some(ComputeState::Failed), ..Filter::default() },
        Filter { lagging: Some(true), ..Filter::default() },
    ] {
        let piece = snapshot.piece(&filter, None, 10);
        assert_eq!((ids_of(&piece.entries), piece.next), (vec![wide(4321)], None), "by one look");
    }
    snapshot.observed(&wide(4321), Call::Probe, seen(1, 3, ComputeState::Running, 1));
    assert!(snapshot.page(&Filter { lagging: Some(true), ..Filter::default() }, None, 10).0.is_empty());
    assert!(snapshot.page(&Filter { state: Some(ComputeState::Failed), ..Filter::default() }, None, 10).0.is_empty());
}

/// Indexes and filters agree with a walk, after any change.
#[test]
fn filters_find_what_a_walk_finds() {
    let snapshot = Snapshot::default();
    let states = [ComputeState::Running, ComputeState::Failed, ComputeState::Init];
    for step in 0..600_u32 {
        let (n, change) = (step * 7 % 40, step * 5 % 4);
        match change {
            0 => snapshot.committed(record(n, i64::from(step % 3), i64::from(step) + 1)),
            1 => drop(snapshot.observed(&id(n), Call::Probe, seen(1, u64::from(step), states[step as usize % 3], 1))),
            2 => snapshot.committed(record(n, i64::from(step % 5), i64::from(step) + 1)),
            _ => snapshot.deleted(&id(step * 11 % 40)),
        }
        let all = snapshot.page(&Filter::default(), None, usize::MAX).0;
        for state in [None, Some(ComputeState::Running), Some(ComputeState::Failed)] {
            for lagging in [None, Some(true), Some(false)] {
                let filter = Filter { state, lagging, label: None };
                let walked = all.iter().filter(|entry| {
                    state.is_none_or(|state| entry.observed.as_ref().is_some_and(|seen| seen.state == state))
                        && lagging.is_none_or(|lagging| lagging == (entry.lag() > 0))
                });
                let walked: Vec<ComputeId> = walked.map(|entry| entry.record.compute_id.clone()).collect();
                assert_eq!(ids_of(&snapshot.page(&filter, None, 100).0), walked, "step {step}: {filter:?}");
            }
        }
        assert_eq!(snapshot.tally(), walked(&snapshot));
    }
}

#[tokio::test]
async fn who_waits_hears_every_change_and_the_end() {
    let snapshot = Snapshot::loaded(vec![record(1, 1, 1)], vec![]);
    let mut one = snapshot.subscribe(&id(1)).unwrap();
    let mut two = snapshot.subscribe(&id(1)).unwrap();
    assert!(snapshot.subscribe(&id(9)).is_none());
    snapshot.committed(record(1, 2, 2));
    for ear in [&mut one, &mut two] {
        ear.changed().await.unwrap();
        assert_eq!(ear.borrow_and_update().record.generation, Generation(2));
    }
    snapshot.deleted(&id(1));
    assert!(one.changed().await.is_err(), "deleted");
    snapshot.committed(record(1, 3, 3));
    assert_eq!(snapshot.subscribe(&id(1)).unwrap().borrow().record.generation, Generation(3));
}

#[test]
fn channels_that_nobody_reads_go() {
    let snapshot = Snapshot::loaded((0..1000).map(|n| record(n + 1000, 1, 1)).collect(), vec![]);
    let kept: Vec<_> = (0..10).map(|n| snapshot.subscribe(&id(n + 1000)).unwrap()).collect();
    for n in 0..1000 {
        drop(snapshot.subscribe(&id(n + 1000)));
    }
    assert!(snapshot.lock().channels() < 100, "{}", snapshot.lock().channels());
    snapshot.committed(record(1003, 2, 2));
    assert!(kept[3].has_changed().unwrap(), "who waits is not forgotten");
}

/// After a panic the database counts, and what was only in memory is forgotten; but no record goes back.
#[test]
fn a_reload_forgets_what_is_not_in_the_database() {
    let snapshot = Snapshot::default();
    snapshot.committed(record(1, 2, 7));
    snapshot.observed(&id(1), Call::Probe, seen(1, 9, ComputeState::Failed, 1));
    snapshot.failed(&id(1), Call::Push, "no", None);
    snapshot.reloaded(record(1, 2, 7), Some(seen(1, 3, ComputeState::Running, 2)));
    let entry = snapshot.get(&id(1)).unwrap();
    assert_eq!(entry.observed.as_deref(), Some(&seen(1, 3, ComputeState::Running, 2)));
    assert_eq!((entry.trouble.clone(), entry.lag()), (None, 0));
    assert!(snapshot.take_unsaved().is_empty());
    assert_eq!(snapshot.tally(), walked(&snapshot));

    snapshot.committed(record(1, 3, 9));
    snapshot.reloaded(record(1, 2, 7), None);
    let entry = snapshot.get(&id(1)).unwrap();
    assert_eq!((entry.record.change_seq, entry.observed.is_none()), (9, true));
    snapshot.reloaded(record(2, 1, 1), None);
    assert!(snapshot.get(&id(2)).is_none(), "a compute that was deleted meanwhile stays deleted");
    assert_eq!(snapshot.tally(), walked(&snapshot));
}

#[test]
fn what_the_database_tells_replaces_what_is_known() {
    let snapshot = Snapshot::loaded(
        vec![record(1, 1, 1), record(2, 1, 2), record(3, 1, 3)],
        vec![(id(1), seen(1, 5, ComputeState::Running, 1)), (id(3), seen(1, 1, ComputeState::Running, 1))],
    );
    snapshot.failed(&id(3), Call::Push, "refused", None);
    let observed = |n, seq| Item::Observed {
        compute_id: id(n),
        observed: Box::new(seen(1, seq, ComputeState::Init, 0)),
        change_seq: 9,
    };
    snapshot.take_in(vec![
        // Made again: what was seen before belongs to another life of it.
        Item::Compute { record: record(1, 2, 5), observed: None },
        Item::Deleted { compute_id: id(2), change_seq: 6 },
        Item::Compute { record: record(4, 1, 7), observed: Some(Box::new(seen(1, 1, ComputeState::Running, 1))) },
        observed(3, 1),
        observed(9, 1),
    ]);
    assert_eq!(snapshot.tally(), walked(&snapshot));
    assert_eq!((snapshot.count(), snapshot.has_unsaved()), (3, false));
    let one = snapshot.get(&id(1)).unwrap();
    assert_eq!((one.record.generation, one.observed.is_some()), (Generation(2), false));
    assert_eq!(snapshot.get(&id(3)).unwrap().observed.as_ref().unwrap().state, ComputeState::Init);
    let page = snapshot.observed_page(Some(&id(1)), 1);
    assert_eq!(page.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [id(3)]);
    assert!(snapshot.observed_page(Some(&id(4)), 1).is_empty());

    assert!(snapshot.get(&id(3)).unwrap().trouble.is_some());
    let next = snapshot.forget_trouble(None, 2);
    assert_eq!(next, Some(id(3)));
    assert_eq!(snapshot.forget_trouble(next.as_ref(), 2), None);
    assert!(snapshot.get(&id(3)).unwrap().trouble.is_none());
}

/// Those that lag, as a walk over the map would find them.
fn lagging(snapshot: &Snapshot) -> Vec<ComputeId> {
    let filter = Filter { lagging: Some(true), ..Filter::default() };
    snapshot.page(&filter, None, usize::MAX).0.iter().map(|entry| entry.record.compute_id.clone()).collect()
}

#[test]
fn those_that_lag_are_known_without_a_walk() {
    let at = |n, generation, change_seq, second| ComputeRecord {
        updated_at: DateTime::from_timestamp(second, 0).unwrap(),
        ..record(n, generation, change_seq)
    };
    let snapshot = Snapshot::loaded(
        vec![at(1, 1, 1, 100), at(2, 1, 2, 100), at(3, 0, 3, 100)],
        vec![(id(2), seen(1, 1, ComputeState::Running, 1))],
    );
    let page = |after: Option<ComputeId>, limit| snapshot.lagging_page(after.as_ref(), limit);
    assert_eq!((page(None, 9), page(Some(id(1)), 9)), (vec![id(1)], vec![]));
    // The oldest generation that is not in effect counts, not the last.
    snapshot.committed(at(2, 2, 4, 110));
    snapshot.committed(at(2, 3, 5, 139));
    assert_eq!(snapshot.lag_ages(140).by_age, [0, 0, 0, 2, 0]);
    snapshot.observed(&id(2), Call::Probe, seen(1, 2, ComputeState::Running, 2));
    assert_eq!(snapshot.lag_ages(140).by_age, [0, 1, 0, 1, 0]);
    snapshot.take_in(vec![Item::Compute { record: at(3, 1, 6, 140), observed: None }]);
    assert_eq!(snapshot.lag_ages(140).by_age, [1, 1, 0, 1, 0]);
    assert_eq!((page(None, 2), lagging(&snapshot)), (vec![id(1), id(2)], vec![id(1), id(2), id(3)]));
    // Long afterwards, and back: nothing is counted twice.
    assert_eq!(snapshot.lag_ages(9_999).by_age, [0, 0, 0, 0, 3]);
    snapshot.observed(&id(1), Call::Push, seen(1, 1, ComputeState::Running, 1));
    snapshot.deleted(&id(3));
    snapshot.deleted(&id(3));
    assert_eq!((snapshot.lag_ages(9_999).by_age, page(None, 9)), ([0, 0, 0, 0, 1], vec![id(2)]));
    snapshot.observed(&id(2), Call::Push, seen(1, 3, ComputeState::Running, 3));
    assert_eq!((snapshot.lag_ages(10_000).by_age, page(None, 9)), ([0; 5], lagging(&snapshot)));
}

/// However many generations follow each other, what is kept of them is bounded and the oldest one's age stays.
#[test]
fn a_compute_that_is_changed_all_the_time_keeps_its_age() {
    let snapshot = Snapshot::default();
    for n in 1..=1000 {
        let updated_at = DateTime::from_timestamp(n, 0).unwrap();
        snapshot.committed(ComputeRecord { updated_at, ..record(1, n, n) });
    }
    assert_eq!(snapshot.lag_ages(1001).by_age, [0, 0, 0, 0, 1]);
    snapshot.observed(&id(1), Call::Push, seen(1, 1, ComputeState::Running, 999));
    assert_eq!(snapshot.lag_ages(1001).by_age.iter().sum::<i64>(), 1);
    snapshot.observed(&id(1), Call::Push, seen(1, 2, ComputeState::Running, 1000));
    assert_eq!(snapshot.lag_ages(1001).by_age, [0; 5]);
}
