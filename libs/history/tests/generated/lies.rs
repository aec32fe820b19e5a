//! One lie each, told at a place of a true history that the test chooses.

use pgfleet_api::controller::Role;
use pgfleet_api::{Generation, Term};
use pgfleet_history::{Answer, Entry, Event};
use proptest::sample::Index;

use crate::world::{content, instance};

/// What was told.
pub struct Told(pub Vec<Entry>);

type Lie = fn(&mut Told, Index);

/// The invariant that finds it, and the lie.
pub const ALL: [(&str, Lie); 13] = [
    ("acknowledged", forgets_the_last_write),
    ("applied", leaves_the_last_spec_unapplied),
    ("content", shows_other_content),
    ("ended", stops_early),
    ("faults", injects_nothing),
    ("ledger", takes_an_agent_back),
    ("leftovers", leaves_a_lock),
    ("linearizable", reads_what_was_long_ago),
    ("linearizable", reads_what_nobody_wrote),
    ("one_leader", lets_two_lead),
    ("provenance", gives_an_agent_what_nobody_asked_for),
    ("terms", gives_a_term_away),
    ("writers", lets_another_write),
];

/// Changes one of the events that `change` takes.
fn change_one(Told(history): &mut Told, at: Index, mut change: impl FnMut(&mut Event) -> bool) {
    let mut fit: Vec<usize> = Vec::new();
    for (number, entry) in history.iter().enumerate() {
        if change(&mut entry.event.clone()) {
            fit.push(number);
        }
    }
    change(&mut history[fit[at.index(fit.len())]].event);
}

fn forgets_the_last_write(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::Final { generation, applied_generation, .. } => {
            *generation = Generation(generation.get() - 1);
            *applied_generation = Some(*generation);
            true
        }
        _ => false,
    });
}

fn leaves_the_last_spec_unapplied(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::Final { generation, applied_generation, .. } => {
            *applied_generation = Some(Generation(generation.get() - 1));
            true
        }
        _ => false,
    });
}

fn shows_other_content(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::Final { spec_hash, .. } => {
            *spec_hash = content(999_999);
            true
        }
        _ => false,
    });
}

fn stops_early(history: &mut Told, at: Index) {
    let keep = at.index(history.0.len());
    history.0.truncate(keep);
}

fn injects_nothing(history: &mut Told, _: Index) {
    history.0.retain(|entry| !matches!(entry.event, Event::Fault { .. }));
}

fn takes_an_agent_back(history: &mut Told, at: Index) {
    // The first sight of each agent has nothing to go back from: it is the one of generation 1.
    change_one(history, at, |event| match event {
        Event::AgentSeen { generation: Some(generation), .. } if generation.get() > 1 => {
            *generation = Generation(0);
            true
        }
        _ => false,
    });
}

fn leaves_a_lock(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::Leftovers { found } => {
            found.push("a lock".into());
            true
        }
        _ => false,
    });
}

fn reads_what_was_long_ago(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::Answered { answer: Answer::Read { generation, .. }, .. } if generation.get() > 1 => {
            *generation = Generation(1);
            true
        }
        _ => false,
    });
}

fn reads_what_nobody_wrote(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::Answered { answer: Answer::Read { generation, spec_hash }, .. } => {
            (*generation, *spec_hash) = (Generation(999), content(999_999));
            true
        }
        _ => false,
    });
}

fn lets_two_lead(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::MemberSeen { instance_id, role: Role::Leader, .. } => {
            *instance_id = instance(777);
            true
        }
        _ => false,
    });
}

fn gives_an_agent_what_nobody_asked_for(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::AgentSeen { generation: Some(generation), spec_hash, .. } => {
            (*generation, *spec_hash) = (Generation(generation.get() + 1000), Some(content(999_999)));
            true
        }
        _ => false,
    });
}

fn gives_a_term_away(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::RowWritten { leader, writer, .. } => {
            *leader = instance(777);
            *writer = format!("pgfleet/{leader}");
            true
        }
        _ => false,
    });
}

fn lets_another_write(history: &mut Told, at: Index) {
    change_one(history, at, |event| match event {
        Event::RowWritten { writer, term: Term(_), .. } => {
            *writer = format!("pgfleet/{}", instance(777));
            true
        }
        _ => false,
    });
}
