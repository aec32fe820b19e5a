//! One pass over one roll-out: look at what is watched, let the time pass, carry out what follows.
//!
//! Invariants: bounded work; what is noted and the phase are committed before the next spec is handed in; a failed write
//! leaves the course in memory behind what the database has, so the caller reads it again.

use std::collections::BTreeSet;
use std::time::Duration;

use pgfleet_domain::rollout::{Action, Event, Halt, Health, Stage, health};
use pgfleet_persistence::{Asker, Change, RolloutChange, WriteError};

use super::Tools;
use super::course::Course;

/// Rounds of one pass: a wave of computes that are all so already takes a few, and another roll-out waits.
const ROUNDS: usize = 32;

/// Why a pass was broken off.
#[derive(Debug)]
pub(super) enum Broken {
    /// This leadership is over.
    NotLeading,
    /// Something is not written, or may not be: read again what is there.
    ReadAgain(WriteError),
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotLeader => Self::NotLeading,
            WriteError::UnknownCompute | WriteError::PreconditionFailed { .. } | WriteError::Refused { .. } => {
                Self::ReadAgain(error)
            }
            WriteError::Unavailable { .. } | WriteError::OutcomeUnknown => Self::ReadAgain(error),
        }
    }
}

/// Whose doing a change of phase is that nobody asked for.
fn controller() -> Asker {
    Asker { actor: "controller".to_owned(), reason: None }
}

/// Looks, ticks, and acts until there is nothing to do for now.
pub(super) async fn pass(tools: &Tools, course: &mut Course, now: Duration) -> Result<(), Broken> {
    let seen = look(tools, course, now);
    carry_out(tools, course, seen, &controller(), now).await?;
    for _ in 0..ROUNDS {
        if course.state.stored().phase.is_over() {
            break;
        }
        let actions = course.take(Event::Tick, now);
        if actions.is_empty() {
            break;
        }
        carry_out(tools, course, actions, &controller(), now).await?;
    }
    Ok(())
}

/// How everything does whose health matters now.
fn look(tools: &Tools, course: &mut Course, now: Duration) -> Vec<Action> {
    let mut actions = Vec::new();
    for (ordinal, generation) in course.state.watched() {
        let Some(id) = course.compute(ordinal) else { continue };
        let event = match tools.snapshot.get(id) {
            Some(entry) => {
                let health = health(&entry.intent(), generation, entry.observed.as_deref());
                if health != Health::Healthy {
                    let observed = entry.observed.as_deref().and_then(|seen| seen.error.clone());
                    let why = observed.or_else(|| entry.trouble.as_ref().map(|trouble| trouble.why.to_string()));
                    course.because(ordinal, why.unwrap_or_else(|| "it did not apply it and run in time".to_owned()));
                }
                Event::Seen { ordinal, health }
            }
            None => {
                course.because(ordinal, "it was deleted since");
                Event::Overtaken { ordinal }
            }
        };
        actions.extend(course.take(event, now));
    }
    actions
}

/// Carries out what was decided: first what is to be written down, then the specs.
pub(super) async fn carry_out(
    tools: &Tools,
    course: &mut Course,
    actions: Vec<Action>,
    asker: &Asker,
    now: Duration,
) -> Result<(), Broken> {
    write_down(tools, course, &actions, asker).await?;
    let of = |wanted: fn(&Action) -> Option<u32>| actions.iter().filter_map(wanted).collect::<Vec<u32>>();
    let touches = of(|action| if let Action::Touch(ordinal) = action { Some(*ordinal) } else { None });
    let restores = of(|action| if let Action::Restore(ordinal) = action { Some(*ordinal) } else { None });
    let mut follow = Vec::new();
    for some in touches.chunks(super::hands::CHUNK) {
        follow.extend(super::hands::touch(tools, course, some, now).await?);
    }
    for some in restores.chunks(super::hands::CHUNK) {
        follow.extend(super::hands::restore(tools, course, some, now).await?);
    }
    // Only notes come of that.
    write_down(tools, course, &follow, asker).await
}

async fn write_down(tools: &Tools, course: &mut Course, actions: &[Action], asker: &Asker) -> Result<(), Broken> {
    let mut notes = BTreeSet::new();
    let mut enters = false;
    for action in actions {
        match action {
            // Where it stands now counts, once.
            Action::Note(ordinal) => {
                notes.insert(*ordinal);
            }
            Action::Enter => enters = true,
            Action::Touch(_) | Action::Restore(_) | Action::Refuse => {}
        }
    }
    let mut changes = Vec::with_capacity(notes.len() + 1);
    for ordinal in notes {
        let Some(target) = course.state.target(ordinal) else { continue };
        tools.metrics.noted(target.phase());
        let rollout_id = course.rollout_id.clone();
        let error = course.why(ordinal).filter(|_| target.phase().is_trouble());
        changes.push(Change::Rollout(RolloutChange::Note { rollout_id, ordinal, phase: target.phase(), error }));
    }
    if enters {
        changes.push(enter(course));
    }
    if changes.is_empty() {
        return Ok(());
    }
    for written in tools.writer.submit_all_for(asker, changes).await {
        written?;
    }
    if enters {
        let phase = course.state.stored().phase.as_str();
        tracing::info!(rollout_id = %course.rollout_id, phase, actor = asker.actor, "a roll-out entered a phase");
    }
    Ok(())
}

fn enter(course: &Course) -> Change {
    let stored = course.state.stored();
    Change::Rollout(RolloutChange::Enter {
        rollout_id: course.rollout_id.clone(),
        phase: stored.phase,
        resumes: stored.resume.map(Stage::phase),
        halted: stored.why.map(Halt::as_str),
        wave: stored.wave,
    })
}
