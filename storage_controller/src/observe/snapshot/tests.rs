//! What enters the map, in which order, and that the counts follow it.

use chrono::DateTime;
use pgfleet_api::BootId;
use pgfleet_persistence::Item;

use super::*;

fn id(n: u32) -> ComputeId {
    format!("c{n}").parse().unwrap()
}

fn record(n: u32, generation: i64, change_seq: i64) -> ComputeRecord {
    ComputeRecord {
        compute_id: id(n),
        agent_url: String::new(),
        labels: [("env".to_owned(), if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned())].into(),
        generation: Generation(generation),
        spec: None,
        spec_hash: None,
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

#[test]
fn a_good_probe_does_not_hide_a_failed_push() {
    let snapshot = Snapshot::loaded(vec![record(1, 1, 1)], vec![]);
    snapshot.failed(&id(1), Call::Push, "refused");
    snapshot.observed(&id(1), Call::Probe, seen(1, 1, ComputeState::Running, 0));
    assert_eq!(snapshot.get(&id(1)).unwrap().view().last_error.as_deref(), Some("refused"));
    snapshot.observed(&id(1), Call::Push, seen(1, 1, ComputeState::Running, 0));
    assert_eq!(snapshot.get(&id(1)).unwrap().view().last_error, None);
    snapshot.failed(&id(1), Call::Probe, "away");
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

/// After a panic the database counts, and what was only in memory is forgotten; but no record goes back.
#[test]
fn a_reload_forgets_what_is_not_in_the_database() {
    let snapshot = Snapshot::default();
    snapshot.committed(record(1, 2, 7));
    snapshot.observed(&id(1), Call::Probe, seen(1, 9, ComputeState::Failed, 1));
    snapshot.failed(&id(1), Call::Push, "no");
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
    snapshot.failed(&id(3), Call::Push, "refused");
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
