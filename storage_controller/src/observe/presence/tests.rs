//! What contacts do to the book, and that its counts follow.

use chrono::DateTime;
use pgfleet_api::{BootId, Generation};
use pgfleet_persistence::ComputeRecord;

use super::*;

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn presence() -> Presence {
    Presence::new(PresenceSettings { pace: Pace::new(s(1), s(30)), max_offline: s(30), connect_rate: 100 })
}

/// Time goes by.
fn pass(presence: &mut Presence, time: Duration) {
    presence.began -= time;
}

fn seen(state: ComputeState) -> Observed {
    Observed {
        state,
        boot_id: BootId(uuid::Uuid::nil()),
        status_seq: 1,
        term: None,
        generation: None,
        applied_generation: None,
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

fn entry(n: usize, state: Option<ComputeState>) -> Entry {
    let record = ComputeRecord {
        compute_id: format!("c{n}").parse().unwrap(),
        agent_url: String::new(),
        labels: Arc::default(),
        generation: Generation(1),
        suspend_timeout_s: None,
        spec_hash: None,
        policy: pgfleet_api::policy::Policy::default(),
        change_seq: 1,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
    };
    Entry { record: Arc::new(record), observed: state.map(|state| Arc::new(seen(state))), trouble: None }
}

#[test]
fn silence_goes_offline_in_its_time_and_one_answer_ends_it() {
    let (mut presence, compute) = (presence(), entry(1, Some(ComputeState::Running)));
    let id = &compute.record.compute_id;
    presence.meet(&compute);
    assert_eq!((presence.contact(id), presence.counts().by_availability), (Contact::Unheard, [1, 0, 0]));
    presence.answered(&compute, &seen(ComputeState::Running));
    assert_eq!(presence.contact(id), Contact::Answers);
    assert_eq!(presence.unanswered(&compute).moved, None);
    assert_eq!((presence.contact(id), presence.counts().silent), (Contact::Silent, 1));
    pass(&mut presence, s(29));
    assert_eq!(presence.unanswered(&compute).moved, None);
    pass(&mut presence, s(1));
    let turned = presence.unanswered(&compute);
    assert_eq!(turned.moved, Some(Availability::Offline));
    assert!(turned.silent_for >= s(30), "{turned:?}");
    assert_eq!((presence.counts().by_availability, presence.counts().silent), ([0, 0, 1], 0));
    let turned = presence.answered(&compute, &seen(ComputeState::Running));
    assert_eq!((turned.is_back, turned.moved), (true, Some(Availability::Active)));
    assert_eq!(presence.counts().by_availability, [1, 0, 0]);
    presence.forget(id);
    assert_eq!(presence.counts(), PresenceCounts::default());
}

#[test]
fn one_that_was_ended_is_offline_without_a_word() {
    let (presence, compute) = (presence(), entry(1, Some(ComputeState::Terminated)));
    presence.meet(&compute);
    assert_eq!(presence.unanswered(&compute).moved, None);
    assert_eq!((presence.counts().by_availability, presence.counts().silent), ([0, 0, 1], 0));
    let (pause, is_doubtful) = presence.next_look(&compute.record.compute_id, false);
    assert!(is_doubtful && pause >= s(20), "it is asked rarely: {pause:?}");
}

/// All at once: the fleet is called silent, nobody offline, however long it lasts; afterwards each has its whole time anew.
#[test]
fn when_all_vanish_at_once_nobody_is_offline() {
    let mut presence = presence();
    let fleet: Vec<_> = (0..200).map(|n| entry(n, Some(ComputeState::Running))).collect();
    for compute in &fleet {
        presence.meet(compute);
        presence.answered(compute, &seen(ComputeState::Running));
    }
    for _ in 0..20 {
        pass(&mut presence, s(10));
        for compute in &fleet {
            assert_eq!(presence.unanswered(compute).moved, None);
        }
    }
    assert_eq!(presence.counts().by_availability, [200, 0, 0]);
    assert!(presence.counts().fleet_silent);
    for compute in &fleet[..100] {
        presence.answered(compute, &seen(ComputeState::Running));
    }
    assert!(!presence.counts().fleet_silent);
    for compute in &fleet[100..] {
        assert_eq!(presence.unanswered(compute).moved, None, "the time begins when the fleet speaks again");
    }
    pass(&mut presence, s(30));
    for compute in &fleet[100..] {
        assert_eq!(presence.unanswered(compute).moved, Some(Availability::Offline));
    }
    assert_eq!(presence.counts().by_availability, [100, 0, 100]);
}

#[test]
fn one_that_comes_and_goes_is_asked_less_and_less() {
    let (presence, compute) = (presence(), entry(1, Some(ComputeState::Running)));
    let id = &compute.record.compute_id;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        presence.unanswered(&compute);
        let pause = presence.next_look(id, false).0;
        let Some(Doing::BackingOff { times, left, .. }) = presence.doing(id) else { panic!("it is asked again") };
        assert!(
            times as usize == pauses.len() + 1 && left <= pause && left + s(1) > pause,
            "{times} {left:?} {pause:?}"
        );
        pauses.push(pause);
        presence.answered(&compute, &seen(ComputeState::Running));
    }
    assert!(pauses.last() > Some(&s(4)), "{pauses:?}");
    assert_eq!(presence.doing(id), None);
    // It stays: the next failure is a first one.
    presence.answered(&compute, &seen(ComputeState::Running));
    presence.unanswered(&compute);
    assert!(presence.next_look(id, false).0 <= Duration::from_millis(100));
}

/// The first looks of a new leader fit into the connect budget; a report does not make a look right after another.
#[test]
fn looks_are_spread() {
    let (mut presence, compute) = (presence(), entry(1, Some(ComputeState::Running)));
    let id = &compute.record.compute_id;
    assert_eq!((presence.first_looks_within(10), presence.first_looks_within(30_000)), (s(30), s(400)));
    presence.answered(&compute, &seen(ComputeState::Running));
    pass(&mut presence, s(9));
    assert_eq!(presence.too_soon(id), Duration::ZERO);
    presence.next_look(id, true);
    assert!(presence.too_soon(id) > Duration::from_millis(100));
    pass(&mut presence, s(1));
    assert_eq!(presence.too_soon(id), Duration::ZERO);
}

/// Many that fall silent hold those that may be gone as well; those that have answered since, and the known silent, not.
#[test]
fn calls_in_vain_hold_those_that_have_not_answered_since() {
    let mut presence = presence();
    let fleet: Vec<_> = (0..200).map(|n| entry(n, Some(ComputeState::Running))).collect();
    for compute in &fleet {
        presence.answered(compute, &seen(ComputeState::Running));
    }
    let (id, other) = (&fleet[150].record.compute_id, &fleet[151].record.compute_id);
    pass(&mut presence, s(5));
    for compute in &fleet[..9] {
        presence.unanswered(compute);
        // Repeated silence of the same is nothing new.
        presence.unanswered(compute);
    }
    assert_eq!(presence.has_to_wait(id, || false), None);
    for compute in &fleet[9..60] {
        presence.unanswered(compute);
    }
    assert!(presence.has_to_wait(id, || false).is_some_and(|wait| wait <= s(1)));
    assert_eq!(presence.has_to_wait(id, || true), None);
    presence.answered(&fleet[151], &seen(ComputeState::Running));
    assert_eq!(presence.has_to_wait(other, || false), None);
    pass(&mut presence, s(1));
    assert_eq!(presence.has_to_wait(id, || false), None);
}
