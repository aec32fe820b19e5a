//! Any course of events: what holds whatever happens, with a leader that dies at any moment.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const COMPUTES: u32 = 9;

/// What the world does in one step.
#[derive(Debug, Clone, Copy)]
enum Move {
    Pass(u64),
    Ask(Command),
    /// The outcome of what is on its way, by number.
    Answer(usize, u8),
    Health(u32, Health),
    Overtake(u32),
    /// The leader dies; the flag says whether what was on its way was committed.
    Die(bool),
}

fn any_move() -> impl Strategy<Value = Move> {
    let commands = prop_oneof![
        6 => Just(Command::Resume),
        2 => Just(Command::Pause),
        1 => Just(Command::Rollback),
        1 => Just(Command::Abort)
    ];
    let healths = prop_oneof![8 => Just(Health::Healthy), 1 => Just(Health::Ill), 1 => Just(Health::Failed)];
    prop_oneof![
        10 => (0u64..30).prop_map(Move::Pass),
        1 => commands.prop_map(Move::Ask),
        12 => (any::<usize>(), 0u8..8).prop_map(|(which, how)| Move::Answer(which, how)),
        12 => (0..COMPUTES, healths).prop_map(|(ordinal, health)| Move::Health(ordinal, health)),
        1 => (0..COMPUTES).prop_map(Move::Overtake),
        1 => any::<bool>().prop_map(Move::Die),
    ]
}

/// The database, beside the machine: who has what.
struct World {
    state: State,
    now: u64,
    under_way: Vec<Action>,
    /// Committed: our spec was written so often.
    written: BTreeMap<u32, u32>,
    /// Committed: the previous spec was put back.
    put_back: BTreeMap<u32, u32>,
    overtaken: Vec<u32>,
}

impl World {
    fn take(&mut self, event: Event) {
        let before = self.state.clone();
        let (state, actions) = decide(before.clone(), event, at(self.now));
        for action in &actions {
            let phase = before.phase();
            match action {
                Action::Touch(ordinal) => {
                    assert!(matches!(phase, Phase::Canary | Phase::Waving), "touched while {phase:?}");
                    assert_eq!(self.written.get(ordinal), None, "touched twice");
                    assert!(
                        state.unavailable() <= state.plan().max_unavailable,
                        "{} are unavailable",
                        state.unavailable()
                    );
                    let wave = state.plan().wave_of(*ordinal);
                    assert!(wave.is_some_and(|wave| wave <= state.stored().wave), "a later wave");
                }
                Action::Restore(ordinal) => {
                    assert_eq!(phase, &Phase::RollingBack);
                    assert!(self.written.contains_key(ordinal), "restored what was never ours");
                    assert!(!self.put_back.contains_key(ordinal), "restored twice");
                }
                Action::Note(_) | Action::Enter | Action::Refuse => continue,
            }
            self.under_way.push(*action);
        }
        // No restore makes more computes unavailable than may be.
        let room = state.plan().max_unavailable.max(before.unavailable());
        let restores = actions.iter().any(|action| matches!(action, Action::Restore(_)));
        assert!(!restores || state.unavailable() <= room);
        // Nobody is counted wrongly.
        let open: Vec<u32> = (0..COMPUTES).filter(|i| state.target(*i).is_some_and(Target::is_open)).collect();
        assert_eq!(open, state.open.iter().copied().collect::<Vec<_>>());
        self.state = state;
    }

    fn answer(&mut self, action: Action, how: u8) {
        match action {
            Action::Touch(ordinal) => {
                let event = match how {
                    0 => Event::NotTouched { ordinal },
                    1 => Event::Unchanged { ordinal },
                    2 => Event::Skipped { ordinal },
                    _ => {
                        *self.written.entry(ordinal).or_default() += 1;
                        Event::Touched { ordinal, generation: generation(ordinal) }
                    }
                };
                self.take(event);
            }
            Action::Restore(ordinal) if self.overtaken.contains(&ordinal) => self.take(Event::Overtaken { ordinal }),
            Action::Restore(ordinal) if how == 0 => self.take(Event::NotRestored { ordinal }),
            Action::Restore(ordinal) => {
                *self.put_back.entry(ordinal).or_default() += 1;
                self.take(Event::Restored { ordinal, generation: generation(ordinal).next() });
            }
            Action::Note(_) | Action::Enter | Action::Refuse => {}
        }
    }

    /// What was on its way was committed or not, and the next leader reads.
    fn die(&mut self, committed: bool) {
        for action in std::mem::take(&mut self.under_way) {
            match action {
                _ if !committed => {}
                Action::Touch(ordinal) => self.answer(Action::Touch(ordinal), 7),
                Action::Restore(ordinal) => self.answer(Action::Restore(ordinal), 7),
                Action::Note(_) | Action::Enter | Action::Refuse => {}
            }
        }
        let until = at(self.now) + self.state.plan().gate_timeout;
        let read = |target: &Target| match *target {
            Target::Touching => Target::Waiting,
            Target::Restoring { generation } | Target::InFlight { generation, .. } => {
                Target::InFlight { generation, until }
            }
            Target::Returning { generation, .. } => Target::Returning { generation, until },
            Target::Waiting | Target::Healthy { .. } | Target::Failed { .. } | Target::GivenUp { .. } => *target,
            Target::Refused | Target::Skipped | Target::Unchanged | Target::Restored => *target,
            Target::Unrestored { .. } | Target::Abandoned | Target::Overtaken => *target,
        };
        let targets = self.state.targets.iter().map(read).collect();
        let next = State::resumed(*self.state.plan(), self.state.stored(), targets, at(self.now));
        assert_eq!((next.ours, next.errors), (self.state.ours - self.touching(), self.state.errors));
        self.state = next;
    }

    fn touching(&self) -> u32 {
        count(self.state.targets.iter().filter(|target| **target == Target::Touching))
    }
}

proptest! {
    /// Whatever happens: a compute is touched at most once, in the order of the waves, only while one may be; nothing is
    /// touched while paused, halted or after the end; a roll-back restores only what is ours, once, and never what somebody
    /// else changed; and when all is well again, whoever resumes comes to an end.
    #[test]
    fn whatever_happens(
        moves in prop::collection::vec(any_move(), 1..160),
        max_unavailable in 1u32..4,
        error_budget in 0u32..3,
        canary in 0u32..3,
        wave in 1u32..5,
    ) {
        let strategy = RolloutStrategy {
            canary: Amount::Count(canary),
            wave: Amount::Count(wave),
            max_unavailable: Amount::Count(max_unavailable),
            error_budget: error_budget.min(max_unavailable - 1),
            ..strategy()
        };
        let plan = Plan::new(&strategy, COMPUTES).unwrap();
        let targets = vec![Target::Waiting; COMPUTES as usize];
        let state = State::resumed(plan, stored(RolloutPhase::Pending), targets, at(0));
        let mut world = World {
            state, now: 0, under_way: Vec::new(), written: BTreeMap::new(), put_back: BTreeMap::new(), overtaken: Vec::new(),
        };
        for one in moves {
            match one {
                Move::Pass(seconds) => {
                    world.now += seconds;
                    world.take(Event::Tick);
                }
                Move::Ask(command) => world.take(Event::Asked(command)),
                Move::Answer(_, _) if world.under_way.is_empty() => {}
                Move::Answer(which, how) => {
                    let action = world.under_way.swap_remove(which % world.under_way.len());
                    world.answer(action, how);
                }
                Move::Health(ordinal, health) => world.take(Event::Seen { ordinal, health }),
                Move::Overtake(ordinal) => {
                    if world.written.contains_key(&ordinal) && !world.put_back.contains_key(&ordinal) {
                        world.overtaken.push(ordinal);
                    }
                }
                Move::Die(committed) => world.die(committed),
            }
        }
        // From now on all is well.
        for _ in 0..200 {
            let waits = matches!(world.state.phase(), Phase::Paused { .. } | Phase::Halted { .. });
            if waits {
                world.take(Event::Asked(Command::Resume));
            }
            world.now += 11;
            world.take(Event::Tick);
            for action in std::mem::take(&mut world.under_way) {
                world.answer(action, 7);
            }
            for ordinal in 0..COMPUTES {
                world.take(Event::Seen { ordinal, health: Health::Healthy });
            }
        }
        prop_assert!(world.state.stored().phase.is_over(), "{:?}", world.state);
    }
}
