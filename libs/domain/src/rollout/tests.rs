//! Every phase with every wish, the stories, and what comes back from the database.

mod property;

use pgfleet_api::rollout::{Amount, RolloutStrategy};

use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn strategy() -> RolloutStrategy {
    RolloutStrategy {
        canary: Amount::Count(1),
        wave: Amount::Count(3),
        max_unavailable: Amount::Count(2),
        soak_s: 10,
        gate_timeout_s: 60,
        error_budget: 1,
    }
}

fn plan(computes: u32) -> Plan {
    Plan::new(&strategy(), computes).unwrap()
}

fn stored(phase: RolloutPhase) -> Stored {
    Stored { phase, resume: None, why: None, wave: 0 }
}

fn fresh(computes: u32) -> State {
    let targets = vec![Target::Waiting; computes as usize];
    State::resumed(plan(computes), stored(RolloutPhase::Pending), targets, at(0))
}

fn step(state: State, event: Event, now: u64) -> (State, Vec<Action>) {
    decide(state, event, at(now))
}

fn generation(ordinal: u32) -> Generation {
    Generation(i64::from(ordinal) + 10)
}

/// Ticks until nothing more happens, and lets everything go well at once, but for the computes in `ill`.
fn run(mut state: State, now: u64, ill: &[u32]) -> (State, Vec<Action>) {
    let mut all = Vec::new();
    loop {
        let mut actions;
        (state, actions) = step(state, Event::Tick, now);
        for action in actions.clone() {
            let (ordinal, event) = match action {
                Action::Touch(ordinal) => (ordinal, Event::Touched { ordinal, generation: generation(ordinal) }),
                Action::Restore(ordinal) => {
                    (ordinal, Event::Restored { ordinal, generation: generation(ordinal).next() })
                }
                Action::Note(_) | Action::Enter | Action::Refuse => continue,
            };
            (state, _) = step(state, event, now);
            if !ill.contains(&ordinal) {
                let noted;
                (state, noted) = step(state, Event::Seen { ordinal, health: Health::Healthy }, now);
                actions.extend(noted);
            }
        }
        if actions.is_empty() {
            return (state, all);
        }
        all.extend(actions);
    }
}

fn ask(state: State, command: Command, now: u64) -> (State, Vec<Action>) {
    step(state, Event::Asked(command), now)
}

fn touched(actions: &[Action]) -> Vec<u32> {
    actions
        .iter()
        .filter_map(|action| if let Action::Touch(ordinal) = action { Some(*ordinal) } else { None })
        .collect()
}

fn restored(actions: &[Action]) -> Vec<u32> {
    let of = |action: &Action| if let Action::Restore(ordinal) = action { Some(*ordinal) } else { None };
    actions.iter().filter_map(of).collect()
}

#[test]
fn strategies_come_to_numbers_and_bad_ones_are_refused_with_their_path() {
    let plan = plan(8);
    assert_eq!(plan.waves(), 4);
    assert_eq!(
        (0..9).map(|i| plan.wave_of(i)).collect::<Vec<_>>(),
        [0, 1, 1, 1, 2, 2, 2, 3].map(Some).into_iter().chain([None]).collect::<Vec<_>>()
    );
    for wave in 0..4 {
        assert!((plan.start(wave)..plan.end(wave)).all(|ordinal| plan.wave_of(ordinal) == Some(wave)), "{wave}");
    }
    assert_eq!(Plan::from(&plan.view()), plan);
    let good = strategy();
    for (bad, path) in [
        (RolloutStrategy { wave: Amount::Count(0), ..good }, "strategy.wave"),
        (RolloutStrategy { max_unavailable: Amount::Count(0), ..good }, "strategy.max_unavailable"),
        (RolloutStrategy { error_budget: 2, ..good }, "strategy.error_budget"),
        (RolloutStrategy { gate_timeout_s: 0, ..good }, "strategy.gate_timeout_s"),
        (RolloutStrategy { soak_s: 604_801, ..good }, "strategy.soak_s"),
    ] {
        assert_eq!(Plan::new(&bad, 100).unwrap_err().path, path);
    }
    let none = Plan::new(&RolloutStrategy { canary: Amount::Count(0), ..good }, 7).unwrap();
    assert_eq!((none.first_wave(), none.waves(), none.wave_of(0)), (1, 3, Some(1)));
    assert_eq!(Plan::new(&RolloutStrategy::default(), 1000).unwrap().max_unavailable, 50);
}

#[test]
fn a_good_roll_out_goes_canary_soak_wave_soak_done() {
    let (state, actions) = run(fresh(5), 0, &[]);
    assert_eq!(touched(&actions), [0], "the canary alone");
    assert_eq!(state.phase(), &Phase::Soaking { until: at(10) });
    let (state, actions) = run(state, 9, &[]);
    assert!(actions.is_empty(), "{actions:?}");
    let (state, actions) = run(state, 10, &[]);
    assert_eq!((touched(&actions), state.stored().wave), (vec![1, 2, 3], 1));
    let (state, actions) = run(state, 20, &[]);
    assert_eq!((touched(&actions), state.stored().wave), (vec![4], 2));
    let (state, _) = run(state, 30, &[]);
    assert_eq!(state.phase(), &Phase::Done);
    assert!(run(state, 1000, &[]).1.is_empty());
}

#[test]
fn never_more_than_max_unavailable_at_a_time() {
    let (state, _) = run(fresh(5), 0, &[]);
    let (state, actions) = run(state, 10, &[1, 2, 3]);
    assert_eq!((touched(&actions), state.unavailable()), (vec![1, 2], 2));
    let (state, _) = step(state, Event::Seen { ordinal: 1, health: Health::Healthy }, 11);
    let (state, actions) = run(state, 11, &[3]);
    assert_eq!(touched(&actions), [3]);
    assert_eq!(state.phase(), &Phase::Waving);
}

#[test]
fn one_failure_above_the_budget_halts_and_nothing_more_is_touched() {
    let (state, _) = run(fresh(8), 0, &[]);
    let (state, _) = run(state, 10, &[1, 2]);
    let (state, _) = step(state, Event::Seen { ordinal: 1, health: Health::Failed }, 11);
    let (state, actions) = step(state, Event::Tick, 11);
    assert!(actions.is_empty(), "one may fail, and there is no room: {actions:?}");
    // The other one runs out of time.
    let (state, actions) = run(state, 70, &[]);
    assert_eq!(actions, [Action::Note(2), Action::Enter]);
    assert_eq!(state.phase(), &Phase::Halted { resume: Stage::Waving, why: Halt::ErrorBudget });
    assert!(run(state.clone(), 1000, &[]).1.is_empty());

    let (back, actions) = ask(state.clone(), Command::Rollback, 80);
    assert_eq!(actions, [Action::Enter]);
    let (back, actions) = run(back, 80, &[]);
    assert_eq!(restored(&actions), [1, 2, 0], "the ill ones first");
    assert_eq!(back.phase(), &Phase::RolledBack);

    let (on, actions) = ask(state, Command::Resume, 80);
    assert_eq!(actions, [Action::Note(1), Action::Note(2), Action::Enter]);
    assert_eq!(on.target(1), Some(Target::GivenUp { generation: generation(1) }));
    let (on, actions) = run(on, 80, &[]);
    assert_eq!((touched(&actions), on.unavailable()), (vec![3], 0));
}

#[test]
fn who_falls_ill_while_watched_holds_the_next_wave_up_and_may_recover() {
    let (state, _) = run(fresh(5), 0, &[]);
    assert_eq!(state.watched(), [(0, generation(0))]);
    let (state, actions) = step(state, Event::Seen { ordinal: 0, health: Health::Ill }, 9);
    assert_eq!(actions, [Action::Note(0)]);
    let (state, actions) = run(state, 20, &[]);
    assert!(actions.is_empty(), "it waits: {actions:?}");
    let (well, _) = step(state.clone(), Event::Seen { ordinal: 0, health: Health::Healthy }, 21);
    assert_eq!(touched(&run(well, 21, &[]).1), [1, 2, 3]);
    let (state, actions) = run(state, 69, &[3]);
    assert_eq!((&actions[..2], state.errors), (&[Action::Note(0), Action::Enter][..], 1), "within the budget");
    assert_eq!((touched(&actions), state.unavailable()), (vec![1, 2, 3], 2));
}

#[test]
fn a_roll_back_leaves_alone_what_was_never_ours_or_is_not_any_more() {
    let (state, _) = run(fresh(5), 0, &[]);
    let (state, actions) = step(state, Event::Tick, 10);
    assert_eq!(actions, [Action::Enter]);
    let (state, actions) = step(state, Event::Tick, 10);
    assert_eq!(touched(&actions), [1, 2]);
    let (state, _) = step(state, Event::Unchanged { ordinal: 1 }, 10);
    // Its write is on its way while the operator asks.
    let (state, _) = ask(state, Command::Rollback, 10);
    let (state, actions) = step(state, Event::Tick, 10);
    assert_eq!(restored(&actions), [0]);
    let (state, _) = step(state, Event::Overtaken { ordinal: 0 }, 10);
    let (state, actions) = step(state, Event::Tick, 10);
    assert!(actions.is_empty(), "what is on its way is waited for: {actions:?}");
    let (state, _) = step(state, Event::Touched { ordinal: 2, generation: generation(2) }, 10);
    let (state, actions) = run(state, 10, &[]);
    assert_eq!(restored(&actions), [2]);
    assert_eq!(
        (state.phase(), state.target(0), state.target(3)),
        (&Phase::RolledBack, Some(Target::Overtaken), Some(Target::Waiting))
    );
}

#[test]
fn a_roll_back_that_heals_nobody_halts_and_goes_on_when_asked() {
    let (mut state, _) = run(fresh(8), 0, &[]);
    for now in [10, 20] {
        (state, _) = run(state, now, &[]);
    }
    let (state, _) = ask(state, Command::Rollback, 25);
    let ill: Vec<u32> = (0..8).collect();
    let (state, actions) = run(state, 25, &ill);
    assert_eq!(restored(&actions), [6, 5], "the last ones first");
    let (state, actions) = run(state, 85, &ill);
    assert_eq!(actions, [Action::Note(5), Action::Note(6), Action::Enter]);
    assert_eq!(state.phase(), &Phase::Halted { resume: Stage::RollingBack, why: Halt::NoRoom });
    let (well, _) = step(state.clone(), Event::Seen { ordinal: 5, health: Health::Healthy }, 86);
    let (state, _) = ask(state, Command::Rollback, 90);
    assert_eq!(state.target(6), Some(Target::Abandoned));
    let (state, actions) = run(state, 90, &[]);
    assert_eq!((restored(&actions), state.phase()), (vec![4, 3, 2, 1, 0], &Phase::RolledBack));
    assert_eq!(well.target(5), Some(Target::Restored), "late is better than never");
}

#[test]
fn a_write_that_failed_is_handed_in_again() {
    let (state, _) = step(fresh(3), Event::Tick, 0);
    let (state, actions) = step(state, Event::Tick, 0);
    assert_eq!(touched(&actions), [0]);
    let (state, _) = step(state, Event::NotTouched { ordinal: 0 }, 0);
    let (state, actions) = step(state, Event::Tick, 0);
    assert_eq!(touched(&actions), [0]);
    let (state, _) = step(state, Event::Touched { ordinal: 0, generation: generation(0) }, 0);
    let (state, _) = ask(state, Command::Rollback, 1);
    let (state, actions) = step(state, Event::Tick, 1);
    assert_eq!(restored(&actions), [0]);
    let (state, _) = step(state, Event::NotRestored { ordinal: 0 }, 1);
    assert_eq!(restored(&step(state, Event::Tick, 1).1), [0]);
}

/// Found by the property: the roll-back had passed this compute while its touch was under way, the database refused the
/// restore, and then the compute became healthy. Nobody handed it in again, and the roll-back never ended.
#[test]
fn what_becomes_healthy_behind_a_roll_back_is_still_restored() {
    let (state, _) = step(fresh(1), Event::Tick, 0);
    let (state, actions) = step(state, Event::Tick, 0);
    assert_eq!(touched(&actions), [0]);
    let (state, _) = ask(state, Command::Rollback, 0);
    let (state, _) = step(state, Event::Tick, 0);
    let (state, _) = step(state, Event::Touched { ordinal: 0, generation: generation(0) }, 0);
    let (state, actions) = step(state, Event::Tick, 0);
    assert_eq!(restored(&actions), [0]);
    let (state, _) = step(state, Event::NotRestored { ordinal: 0 }, 0);
    let (state, _) = step(state, Event::Seen { ordinal: 0, health: Health::Healthy }, 0);
    let (state, actions) = run(state, 0, &[]);
    assert_eq!(restored(&actions), [0]);
    assert_eq!(state.phase(), &Phase::RolledBack);
}

/// Every phase, as it is reached.
fn all_phases() -> Vec<State> {
    let (soaking, _) = run(fresh(5), 0, &[]);
    let (canary, _) = run(fresh(5), 0, &[0]);
    let (waving, _) = run(soaking.clone(), 10, &[1, 2]);
    let mut halted = waving.clone();
    for ordinal in [1, 2] {
        (halted, _) = step(halted, Event::Seen { ordinal, health: Health::Failed }, 11);
    }
    let (halted, _) = run(halted, 11, &[]);
    let (back, _) = ask(waving.clone(), Command::Rollback, 12);
    let (rolled_back, _) = run(back.clone(), 12, &[]);
    let (paused, _) = ask(waving.clone(), Command::Pause, 12);
    let (aborted, _) = ask(waving.clone(), Command::Abort, 12);
    let mut done = soaking.clone();
    for now in [10, 20, 30] {
        (done, _) = run(done, now, &[]);
    }
    vec![fresh(5), canary, soaking, waving, paused, halted, back, rolled_back, done, aborted]
}

/// Phase × wish: what it leads to; `None`: refused.
#[test]
fn every_wish_in_every_phase() {
    use RolloutPhase as P;
    let table: [(P, [Option<P>; 4]); 10] = [
        // pause, resume, abort, rollback
        (P::Pending, [Some(P::Paused), Some(P::Pending), Some(P::Aborted), Some(P::RollingBack)]),
        (P::Canary, [Some(P::Paused), Some(P::Canary), Some(P::Aborted), Some(P::RollingBack)]),
        (P::Soaking, [Some(P::Paused), Some(P::Soaking), Some(P::Aborted), Some(P::RollingBack)]),
        (P::Waving, [Some(P::Paused), Some(P::Waving), Some(P::Aborted), Some(P::RollingBack)]),
        (P::Paused, [Some(P::Paused), Some(P::Waving), Some(P::Aborted), Some(P::RollingBack)]),
        (P::Halted, [None, Some(P::Waving), Some(P::Aborted), Some(P::RollingBack)]),
        (P::RollingBack, [Some(P::Paused), Some(P::RollingBack), Some(P::Aborted), Some(P::RollingBack)]),
        (P::RolledBack, [None, None, None, Some(P::RolledBack)]),
        (P::Done, [None, None, None, Some(P::RollingBack)]),
        (P::Aborted, [None, None, Some(P::Aborted), Some(P::RollingBack)]),
    ];
    for (state, (phase, expected)) in all_phases().into_iter().zip(table) {
        assert_eq!(state.stored().phase, phase);
        let wishes = [Command::Pause, Command::Resume, Command::Abort, Command::Rollback];
        for (command, expected) in wishes.into_iter().zip(expected) {
            let (after, actions) = ask(state.clone(), command, 13);
            let refused = actions.contains(&Action::Refuse);
            assert_eq!((!refused).then_some(after.stored().phase), expected, "{command:?} while {phase:?}");
            assert_eq!(refused, after == state && expected.is_none(), "a refusal changes nothing");
            // Twice is once.
            if !refused {
                let (again, actions) = ask(after.clone(), command, 13);
                assert_eq!((again.stored(), actions), (after.stored(), vec![]), "{command:?} twice while {phase:?}");
            }
        }
    }
}

/// Phase × everything else: nothing panics, and what is over stays over.
#[test]
fn every_event_in_every_phase() {
    for state in all_phases() {
        let over = state.stored().phase.is_over();
        for ordinal in 0..7 {
            for event in [
                Event::Tick,
                Event::Touched { ordinal, generation: generation(ordinal) },
                Event::NotTouched { ordinal },
                Event::Unchanged { ordinal },
                Event::Refused { ordinal },
                Event::Skipped { ordinal },
                Event::Seen { ordinal, health: Health::Healthy },
                Event::Seen { ordinal, health: Health::Ill },
                Event::Seen { ordinal, health: Health::Failed },
                Event::Restored { ordinal, generation: generation(ordinal) },
                Event::NotRestored { ordinal },
                Event::Overtaken { ordinal },
            ] {
                let (after, actions) = step(state.clone(), event, 13);
                if over {
                    assert_eq!(after.phase(), state.phase(), "{event:?}");
                    assert!(touched(&actions).is_empty() && restored(&actions).is_empty(), "{event:?}");
                }
            }
        }
    }
}

#[test]
fn the_next_leader_goes_on_from_what_is_stored() {
    for state in all_phases() {
        // What is on its way when a leader dies is in the database or it is not; here it is not.
        let targets: Vec<Target> = state
            .targets
            .iter()
            .map(|target| match target {
                Target::Touching => Target::Waiting,
                Target::Restoring { generation } => Target::InFlight { generation: *generation, until: at(100) },
                Target::Waiting | Target::InFlight { .. } | Target::Healthy { .. } | Target::Failed { .. } => *target,
                Target::GivenUp { .. } | Target::Refused | Target::Skipped | Target::Unchanged => *target,
                Target::Returning { .. } | Target::Restored | Target::Unrestored { .. } => *target,
                Target::Abandoned | Target::Overtaken => *target,
            })
            .collect();
        let next = State::resumed(plan(5), state.stored(), targets, at(40));
        assert_eq!(next.stored(), state.stored());
        assert_eq!((next.ours, next.errors), (state.ours, state.errors), "{:?}", state.phase());
        if let Phase::Soaking { until } = next.phase() {
            assert_eq!(*until, at(50), "it soaks anew");
        }
    }
    // A gap that a dead leader left is filled first.
    let mut targets = vec![Target::Waiting; 5];
    targets[0] = Target::Healthy { generation: generation(0) };
    targets[2] = Target::InFlight { generation: generation(2), until: at(100) };
    let state = State::resumed(plan(5), Stored { wave: 1, ..stored(RolloutPhase::Waving) }, targets, at(40));
    assert_eq!((state.unavailable(), touched(&step(state, Event::Tick, 40).1)), (1, vec![1]));
}

#[test]
fn the_gate_is_applied_and_running() {
    use pgfleet_api::agent::ComputeState;
    let hash: pgfleet_api::SpecHash = "a".repeat(64).parse().unwrap();
    let intent = Intent { generation: Generation(4), spec_hash: Some(hash.clone()) };
    let seen = |state, applied, rejected| Observed {
        state,
        boot_id: pgfleet_api::BootId(uuid::Uuid::nil()),
        status_seq: 1,
        term: None,
        generation: Some(Generation(4)),
        applied_generation: Some(Generation(applied)),
        rejected_generation: rejected,
        spec_hash: Some(hash.clone()),
        pending_restart: vec![],
        ignored_fields: vec![],
        error: None,
        error_detail: None,
        failures: vec![],
        postgres: None,
    };
    let gate = |state, applied, rejected| health(&intent, Generation(4), Some(&seen(state, applied, rejected)));
    assert_eq!(gate(ComputeState::Running, 4, None), Health::Healthy);
    assert_eq!(gate(ComputeState::Running, 3, None), Health::Ill);
    assert_eq!(gate(ComputeState::Init, 4, None), Health::Ill);
    assert_eq!(gate(ComputeState::Failed, 3, None), Health::Failed);
    assert_eq!(gate(ComputeState::Running, 3, Some(Generation(4))), Health::Failed);
    assert_eq!(health(&intent, Generation(4), None), Health::Ill);
}
