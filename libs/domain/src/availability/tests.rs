//! Every state with every event, and a fleet that falls silent and speaks again.

use super::*;

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

const PATIENCE: Patience = Patience { max_offline: s(30), not_before: Duration::ZERO, suspended: false };

#[test]
fn every_state_with_every_event() {
    let up = Event::Answered { is_up: true, same_boot: true };
    let up_again = Event::Answered { is_up: true, same_boot: false };
    let busy = Event::Answered { is_up: false, same_boot: true };
    let booting = Event::Answered { is_up: false, same_boot: false };
    let warming = |silent: Option<u64>| State::WarmingUp { silent_since: silent.map(s) };
    let active = |silent: Option<u64>| State::Active { silent_since: silent.map(s) };
    let rows = [
        (warming(None), up, active(None)),
        (warming(Some(90)), up_again, active(None)),
        (warming(Some(90)), busy, warming(None)),
        (warming(None), booting, warming(None)),
        (warming(None), Event::Unanswered, warming(Some(100))),
        (warming(Some(71)), Event::Unanswered, warming(Some(71))),
        (warming(Some(70)), Event::Unanswered, State::Offline),
        (warming(None), Event::Gone, State::Offline),
        (active(Some(90)), up, active(None)),
        (active(None), up_again, active(None)),
        (active(Some(90)), busy, active(None)),
        (active(None), booting, warming(None)),
        (active(None), Event::Unanswered, active(Some(100))),
        (active(Some(71)), Event::Unanswered, active(Some(71))),
        (active(Some(70)), Event::Unanswered, State::Offline),
        (active(None), Event::Gone, State::Offline),
        (State::Offline, up, active(None)),
        (State::Offline, up_again, active(None)),
        (State::Offline, busy, warming(None)),
        (State::Offline, booting, warming(None)),
        (State::Offline, Event::Unanswered, State::Offline),
        (State::Offline, Event::Gone, State::Offline),
    ];
    for (state, event, expected) in rows {
        assert_eq!(transition(state, event, s(100), PATIENCE), expected, "{state:?} {event:?}");
    }
}

#[test]
fn silence_of_the_fleet_does_not_count() {
    let silent = State::Active { silent_since: Some(s(10)) };
    let after = |patience| transition(silent, Event::Unanswered, s(100), patience);
    assert_eq!(after(PATIENCE), State::Offline);
    assert_eq!(after(Patience { suspended: true, ..PATIENCE }), silent);
    assert_eq!(after(Patience { not_before: s(80), ..PATIENCE }), silent, "it has had 20 s since the fleet spoke");
    assert_eq!(after(Patience { not_before: s(70), ..PATIENCE }), State::Offline);
}

/// Looks at a fleet of which `dead` fall silent at once, in turn; gives what was said of it.
fn looks(fleet: &mut Fleet, size: usize, dead: usize) -> Vec<Turn> {
    let mut silent = 0;
    let mut turns = Vec::new();
    for n in 0..size {
        let answered = (n * 7919) % size >= dead;
        silent += usize::from(!answered);
        turns.extend(fleet.look(answered, size, silent, s(1)));
    }
    turns
}

#[test]
fn all_at_once_is_our_own_fault() {
    for size in [10, 63, 64, 1000] {
        let mut fleet = Fleet::default();
        assert_eq!(looks(&mut fleet, size, 0), []);
        assert_eq!(looks(&mut fleet, size, size), [Turn::FellSilent], "{size}");
        assert!(fleet.patience(s(30), size).suspended);
        // One answer alone is not enough; a tenth of the fleet is.
        assert_eq!(fleet.look(true, size, size - 1, s(50)), None, "{size}");
        let turns: Vec<_> = (2..=size).filter_map(|back| fleet.look(true, size, size - back, s(60))).collect();
        assert_eq!(turns, [Turn::SpeaksAgain], "{size}");
        assert_eq!(fleet.patience(s(30), size).not_before, s(60));
        assert!(!fleet.is_silent());
    }
}

#[test]
fn a_part_of_the_fleet_is_its_own_fault() {
    for (size, dead) in [(10, 5), (100, 60), (1000, 700), (9, 9)] {
        let mut fleet = Fleet::default();
        looks(&mut fleet, size, 0);
        assert_eq!(looks(&mut fleet, size, dead), [], "{dead} of {size}");
        // Those that are left go on answering, and then the others are called what they are.
        for _ in 0..WINDOW {
            assert_eq!(fleet.look(true, size, dead, s(9)), None);
        }
        assert!(!fleet.patience(s(30), size).suspended, "{dead} of {size}");
    }
}

/// Before the verdict on the fleet is in, nobody is called offline: the first that fell silent would be the first.
#[test]
fn while_half_of_the_looks_fail_nobody_is_offline() {
    let mut fleet = Fleet::default();
    looks(&mut fleet, 20, 0);
    for silent in 1..=9 {
        fleet.look(false, 20, silent, s(1));
    }
    assert!(!fleet.patience(s(30), 20).suspended);
    fleet.look(false, 20, 10, s(1));
    assert!(fleet.patience(s(30), 20).suspended && !fleet.is_silent());
}
