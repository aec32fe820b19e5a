//! The decision: state and event in, state and actions out.

use std::time::Duration;

use super::{Action, Command, Event, Halt, Health, Phase, Stage, State, Target};

/// Decides. Actions are to be carried out in their order; what becomes of them comes back as events.
#[must_use]
pub fn decide(mut state: State, event: Event, now: Duration) -> (State, Vec<Action>) {
    let mut actions = Vec::new();
    match event {
        Event::Tick => tick(&mut state, now, &mut actions),
        Event::Asked(command) => asked(&mut state, command, now, &mut actions),
        Event::Seen { ordinal, health } => seen(&mut state, ordinal, health, now, &mut actions),
        Event::Touched { ordinal, generation } => {
            let until = now + state.plan.gate_timeout;
            // Written in the same commit as the spec: there is nothing to note.
            settle(&mut state, ordinal, Target::InFlight { generation, until });
        }
        Event::NotTouched { ordinal } => {
            if settle(&mut state, ordinal, Target::Waiting) {
                state.again.insert(ordinal);
            }
        }
        Event::Unchanged { ordinal } => untouched(&mut state, ordinal, Target::Unchanged, &mut actions),
        Event::Refused { ordinal } => untouched(&mut state, ordinal, Target::Refused, &mut actions),
        Event::Skipped { ordinal } => untouched(&mut state, ordinal, Target::Skipped, &mut actions),
        Event::Restored { ordinal, generation } => {
            if let Some(Target::Restoring { .. }) = state.target(ordinal) {
                let until = now + state.plan.gate_timeout;
                state.set(ordinal, Target::Returning { generation, until });
            }
        }
        Event::NotRestored { ordinal } => {
            if let Some(Target::Restoring { generation }) = state.target(ordinal) {
                let until = now + state.plan.gate_timeout;
                state.set(ordinal, Target::InFlight { generation, until });
            }
        }
        Event::Overtaken { ordinal } => overtaken(&mut state, ordinal, &mut actions),
    }
    (state, actions)
}

/// The end of a touch.
fn settle(state: &mut State, ordinal: u32, as_: Target) -> bool {
    let touching = state.target(ordinal) == Some(Target::Touching);
    if touching {
        state.set(ordinal, as_);
    }
    touching
}

fn untouched(state: &mut State, ordinal: u32, as_: Target, actions: &mut Vec<Action>) {
    if settle(state, ordinal, as_) {
        actions.push(Action::Note(ordinal));
    }
}

fn overtaken(state: &mut State, ordinal: u32, actions: &mut Vec<Action>) {
    let Some(target) = state.target(ordinal) else { return };
    let ours = match target {
        Target::InFlight { .. } | Target::Healthy { .. } | Target::Failed { .. } | Target::GivenUp { .. } => true,
        Target::Restoring { .. } | Target::Returning { .. } | Target::Unrestored { .. } => true,
        Target::Waiting | Target::Touching | Target::Refused | Target::Skipped | Target::Unchanged => false,
        Target::Restored | Target::Abandoned | Target::Overtaken => false,
    };
    if ours {
        state.set(ordinal, Target::Overtaken);
        actions.push(Action::Note(ordinal));
    }
}

fn seen(state: &mut State, ordinal: u32, health: Health, now: Duration, actions: &mut Vec<Action>) {
    let is_over = match state.phase {
        Phase::RolledBack | Phase::Done | Phase::Aborted => true,
        Phase::Pending | Phase::Canary | Phase::Soaking { .. } | Phase::Waving => false,
        Phase::Paused { .. } | Phase::Halted { .. } | Phase::RollingBack => false,
    };
    let Some(target) = state.target(ordinal).filter(|_| !is_over) else { return };
    let until = now + state.plan.gate_timeout;
    let new = match (target, health) {
        (Target::InFlight { generation, .. }, Health::Healthy) => Target::Healthy { generation },
        (Target::InFlight { generation, .. } | Target::Healthy { generation }, Health::Failed) => {
            Target::Failed { generation }
        }
        // It was well and is not any more: it gets the time of the gate to recover.
        (Target::Healthy { generation }, Health::Ill) => Target::InFlight { generation, until },
        (Target::Returning { .. } | Target::Unrestored { .. }, Health::Healthy) => Target::Restored,
        (Target::Returning { generation, .. }, Health::Failed) => Target::Unrestored { generation },
        (Target::InFlight { .. } | Target::Returning { .. }, Health::Ill) => return,
        (Target::Healthy { .. }, Health::Healthy) => return,
        (Target::Unrestored { .. }, Health::Ill | Health::Failed) => return,
        (Target::Waiting | Target::Touching | Target::Failed { .. } | Target::GivenUp { .. }, _) => return,
        (Target::Refused | Target::Skipped | Target::Unchanged | Target::Restoring { .. }, _) => return,
        (Target::Restored | Target::Abandoned | Target::Overtaken, _) => return,
    };
    state.set(ordinal, new);
    if state.phase == Phase::RollingBack && matches!(new, Target::Healthy { .. }) {
        // It has our spec still, and is no longer among the open: the way back passes it once more.
        state.back = state.back.max(ordinal + 1);
    }
    actions.push(Action::Note(ordinal));
}

fn tick(state: &mut State, now: Duration, actions: &mut Vec<Action>) {
    match state.phase {
        Phase::Pending => {
            let begun = if state.plan.canary > 0 { Phase::Canary } else { Phase::Waving };
            state.wave = state.plan.first_wave();
            let nothing_to_do = state.plan.computes == 0;
            enter(state, if nothing_to_do { Phase::Done } else { begun }, actions);
        }
        Phase::Canary | Phase::Waving => {
            run_out(state, now, actions);
            if !over_budget(state, actions) {
                advance(state, now, actions);
            }
        }
        Phase::Soaking { until } => {
            run_out(state, now, actions);
            if !over_budget(state, actions) && now >= until && is_calm(state) {
                soaked(state, actions);
            }
        }
        Phase::Paused { resume } => {
            run_out(state, now, actions);
            match resume {
                Stage::RollingBack => {}
                Stage::Pending | Stage::Canary | Stage::Soaking | Stage::Waving => {
                    over_budget(state, actions);
                }
            }
        }
        Phase::Halted { .. } => run_out(state, now, actions),
        Phase::RollingBack => {
            run_out(state, now, actions);
            go_back(state, actions);
        }
        Phase::RolledBack | Phase::Done | Phase::Aborted => {}
    }
}

fn enter(state: &mut State, phase: Phase, actions: &mut Vec<Action>) {
    state.phase = phase;
    actions.push(Action::Enter);
}

/// What did not become healthy in time has failed.
fn run_out(state: &mut State, now: Duration, actions: &mut Vec<Action>) {
    let late = |ordinal: &u32| match state.target(*ordinal)? {
        Target::InFlight { generation, until } if now >= until => Some((*ordinal, Target::Failed { generation })),
        Target::Returning { generation, until } if now >= until => Some((*ordinal, Target::Unrestored { generation })),
        Target::InFlight { .. } | Target::Returning { .. } | Target::Failed { .. } | Target::Unrestored { .. } => None,
        Target::Waiting | Target::Touching | Target::Healthy { .. } | Target::GivenUp { .. } | Target::Refused => None,
        Target::Skipped | Target::Unchanged | Target::Restoring { .. } | Target::Restored => None,
        Target::Abandoned | Target::Overtaken => None,
    };
    let late: Vec<_> = state.open.iter().filter_map(late).collect();
    for (ordinal, as_) in late {
        // On the way back it is not late: its previous spec has not even been handed in.
        if state.phase == Phase::RollingBack && matches!(as_, Target::Failed { .. }) {
            continue;
        }
        state.set(ordinal, as_);
        actions.push(Action::Note(ordinal));
    }
}

fn over_budget(state: &mut State, actions: &mut Vec<Action>) -> bool {
    let resume = match state.phase {
        Phase::Canary => Stage::Canary,
        Phase::Soaking { .. } => Stage::Soaking,
        Phase::Waving => Stage::Waving,
        Phase::Paused { resume } => resume,
        Phase::Pending | Phase::Halted { .. } | Phase::RollingBack => return false,
        Phase::RolledBack | Phase::Done | Phase::Aborted => return false,
    };
    let over = state.errors > state.plan.error_budget;
    if over {
        enter(state, Phase::Halted { resume, why: Halt::ErrorBudget }, actions);
    }
    over
}

/// Nothing is on its way and nobody's health is open.
fn is_calm(state: &State) -> bool {
    state.open.iter().all(|ordinal| matches!(state.target(*ordinal), Some(Target::Failed { .. })))
}

/// Hands out the rest of the wave, as far as there is room.
fn advance(state: &mut State, now: Duration, actions: &mut Vec<Action>) {
    let end = state.plan.end(state.wave);
    while state.unavailable() < state.plan.max_unavailable {
        let ordinal = match state.again.pop_first() {
            Some(ordinal) => ordinal,
            None if state.next < end => {
                state.next += 1;
                state.next - 1
            }
            None => break,
        };
        if state.target(ordinal) == Some(Target::Waiting) {
            state.set(ordinal, Target::Touching);
            actions.push(Action::Touch(ordinal));
        }
    }
    if state.next >= end && state.again.is_empty() && is_calm(state) {
        enter(state, Phase::Soaking { until: now + state.plan.soak }, actions);
    }
}

/// A wave has stayed healthy.
fn soaked(state: &mut State, actions: &mut Vec<Action>) {
    let through = state.next >= state.plan.end(state.wave) && state.again.is_empty();
    if through && state.next >= state.plan.computes {
        return enter(state, Phase::Done, actions);
    }
    if through {
        state.wave += 1;
    }
    let phase = if state.wave == 0 { Phase::Canary } else { Phase::Waving };
    enter(state, phase, actions);
}

/// Hands out previous specs: at once to what is not healthy anyway, to others as far as there is room.
fn go_back(state: &mut State, actions: &mut Vec<Action>) {
    let open: Vec<u32> = state.open.iter().copied().collect();
    for ordinal in open {
        hand_back(state, ordinal, actions);
    }
    while state.back > 0 && state.unavailable() < state.plan.max_unavailable {
        state.back -= 1;
        hand_back(state, state.back, actions);
    }
    let busy = state.open.iter().any(|ordinal| !matches!(state.target(*ordinal), Some(Target::Unrestored { .. })));
    if state.ours == 0 && !busy {
        enter(state, Phase::RolledBack, actions);
    } else if !busy && state.unavailable() >= state.plan.max_unavailable {
        enter(state, Phase::Halted { resume: Stage::RollingBack, why: Halt::NoRoom }, actions);
    }
}

fn hand_back(state: &mut State, ordinal: u32, actions: &mut Vec<Action>) {
    let generation = match state.target(ordinal) {
        Some(Target::InFlight { generation, .. } | Target::Healthy { generation }) => generation,
        Some(Target::Failed { generation } | Target::GivenUp { generation }) => generation,
        Some(Target::Waiting | Target::Touching | Target::Refused | Target::Skipped | Target::Unchanged) => return,
        Some(Target::Restoring { .. } | Target::Returning { .. } | Target::Restored) => return,
        Some(Target::Unrestored { .. } | Target::Abandoned | Target::Overtaken) | None => return,
    };
    state.set(ordinal, Target::Restoring { generation });
    actions.push(Action::Restore(ordinal));
}

fn asked(state: &mut State, command: Command, now: Duration, actions: &mut Vec<Action>) {
    match command {
        Command::Pause => pause(state, actions),
        Command::Resume => resume(state, now, actions),
        Command::Abort => match state.phase {
            Phase::Pending | Phase::Canary | Phase::Soaking { .. } | Phase::Waving | Phase::Paused { .. } => {
                enter(state, Phase::Aborted, actions);
            }
            Phase::Halted { .. } | Phase::RollingBack => enter(state, Phase::Aborted, actions),
            Phase::Aborted => {}
            Phase::RolledBack | Phase::Done => actions.push(Action::Refuse),
        },
        Command::Rollback => match state.phase {
            Phase::RollingBack | Phase::RolledBack => {}
            Phase::Halted { resume: Stage::RollingBack, .. } => {
                forgive(state, actions);
                begin_back(state, actions);
            }
            Phase::Pending | Phase::Canary | Phase::Soaking { .. } | Phase::Waving | Phase::Paused { .. } => {
                begin_back(state, actions);
            }
            Phase::Halted { .. } | Phase::Done | Phase::Aborted => begin_back(state, actions),
        },
    }
}

fn begin_back(state: &mut State, actions: &mut Vec<Action>) {
    state.back = state.next;
    enter(state, Phase::RollingBack, actions);
}

fn pause(state: &mut State, actions: &mut Vec<Action>) {
    let resume = match state.phase {
        Phase::Pending => Stage::Pending,
        Phase::Canary => Stage::Canary,
        Phase::Soaking { .. } => Stage::Soaking,
        Phase::Waving => Stage::Waving,
        Phase::RollingBack => Stage::RollingBack,
        Phase::Paused { .. } => return,
        Phase::Halted { .. } | Phase::RolledBack | Phase::Done | Phase::Aborted => {
            return actions.push(Action::Refuse);
        }
    };
    enter(state, Phase::Paused { resume }, actions);
}

fn resume(state: &mut State, now: Duration, actions: &mut Vec<Action>) {
    let resume = match state.phase {
        Phase::Paused { resume } => resume,
        Phase::Halted { resume, .. } => {
            forgive(state, actions);
            resume
        }
        Phase::Pending | Phase::Canary | Phase::Soaking { .. } | Phase::Waving | Phase::RollingBack => return,
        Phase::RolledBack | Phase::Done | Phase::Aborted => return actions.push(Action::Refuse),
    };
    let phase = match resume {
        Stage::Pending => Phase::Pending,
        Stage::Canary => Phase::Canary,
        Stage::Soaking => Phase::Soaking { until: now + state.plan.soak },
        Stage::Waving => Phase::Waving,
        Stage::RollingBack => Phase::RollingBack,
    };
    if phase == Phase::RollingBack {
        state.back = state.next;
    }
    enter(state, phase, actions);
}

/// An operator goes on after a halt: what failed so far counts against nothing any more.
fn forgive(state: &mut State, actions: &mut Vec<Action>) {
    let forgiven = |(ordinal, target): (u32, &Target)| match target {
        Target::Failed { generation } => Some((ordinal, Target::GivenUp { generation: *generation })),
        Target::Refused => Some((ordinal, Target::Skipped)),
        Target::Unrestored { .. } => Some((ordinal, Target::Abandoned)),
        Target::Waiting | Target::Touching | Target::InFlight { .. } | Target::Healthy { .. } => None,
        Target::GivenUp { .. } | Target::Skipped | Target::Unchanged | Target::Restoring { .. } => None,
        Target::Returning { .. } | Target::Restored | Target::Abandoned | Target::Overtaken => None,
    };
    let forgiven: Vec<_> = (0..).zip(&state.targets).filter_map(forgiven).collect();
    for (ordinal, as_) in forgiven {
        state.set(ordinal, as_);
        actions.push(Action::Note(ordinal));
    }
}
