//! Specs handed to the writer: new ones, and previous ones on the way back.
//!
//! Invariant: each is written on a condition, so what somebody else changed in between is never written over.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_domain::rollout::{Action, Event, Target};
use pgfleet_persistence::{Change, Committed, DbError, Hand, NewSpec, RolloutChange, SpecRecord, WriteError};

use super::Tools;
use super::course::Course;
use super::fit::{Fit, fit, unwell};
use super::pass::Broken;

/// Specs that are handed in together: operators' own writes get their turn in between.
pub(super) const CHUNK: usize = 128;

/// Gives some computes their new specs. What follows from it is to be noted.
pub(super) async fn touch(
    tools: &Tools,
    course: &mut Course,
    ordinals: &[u32],
    now: Duration,
) -> Result<Vec<Action>, Broken> {
    let mut follow = Vec::new();
    let mut hands = Vec::with_capacity(ordinals.len());
    let ids: Vec<ComputeId> = ordinals.iter().filter_map(|ordinal| course.compute(*ordinal).cloned()).collect();
    let specs = tools.database.specs_of(&ids).await.map_err(unread)?;
    for ordinal in ordinals.iter().copied() {
        match new_hand(tools, course, ordinal, &specs) {
            Ok(hand) => hands.push(hand),
            Err(event) => follow.extend(course.take(event, now)),
        }
    }
    let changes = hands.iter().cloned().map(|hand| Change::Rollout(RolloutChange::Touch(hand))).collect();
    let answers = tools.writer.submit_all_for(&course.asker, changes).await;
    let mut broken = None;
    for (hand, answer) in hands.into_iter().zip(answers) {
        let ordinal = hand.ordinal;
        let event = match answer {
            Ok(Committed { changed: false, .. }) => Event::Unchanged { ordinal },
            Ok(Committed { generation, .. }) => {
                course.gave(ordinal, hand.spec.hash);
                tools.waker.wake_now(hand.compute_id);
                Event::Touched { ordinal, generation }
            }
            Err(WriteError::PreconditionFailed { .. }) => Event::NotTouched { ordinal },
            Err(WriteError::UnknownCompute) => {
                course.because(ordinal, "it was deleted");
                Event::Skipped { ordinal }
            }
            Err(WriteError::Refused { msg, .. }) => {
                course.because(ordinal, msg);
                Event::Refused { ordinal }
            }
            Err(error) => {
                broken = Some(Broken::from(error));
                Event::NotTouched { ordinal }
            }
        };
        follow.extend(course.take(event, now));
    }
    broken.map_or(Ok(follow), Err)
}

/// Nothing was written, and the same is tried again.
fn unread(error: DbError) -> Broken {
    Broken::ReadAgain(WriteError::Unavailable { msg: error.to_string() })
}

/// The new spec of a compute, or what to say instead.
fn new_hand(
    tools: &Tools,
    course: &mut Course,
    ordinal: u32,
    specs: &BTreeMap<ComputeId, SpecRecord>,
) -> Result<Hand, Event> {
    let skipped = Event::Skipped { ordinal };
    let Some(compute_id) = course.compute(ordinal).cloned() else { return Err(skipped) };
    let Some(entry) = tools.snapshot.get(&compute_id) else {
        course.because(ordinal, "it was deleted");
        return Err(skipped);
    };
    let current = specs.get(&compute_id);
    let why = match (fit(&course.patch, &entry, current), unwell(&entry), current) {
        (Fit::Changes(spec), None, Some(current)) => {
            let (rollout_id, if_match) = (course.rollout_id.clone(), current.generation);
            return Ok(Hand { rollout_id, ordinal, compute_id, spec, if_match });
        }
        (Fit::Changes(_), why, _) => why.unwrap_or("it has no spec"),
        (Fit::LeftOut(why), ..) => why,
        (Fit::Unchanged, ..) => return Err(Event::Unchanged { ordinal }),
        (Fit::Refused(error), ..) => {
            course.because(ordinal, error.to_string());
            return Err(Event::Refused { ordinal });
        }
    };
    course.because(ordinal, why);
    Err(skipped)
}

/// Gives some computes their previous specs, if they still have ours.
pub(super) async fn restore(
    tools: &Tools,
    course: &mut Course,
    ordinals: &[u32],
    now: Duration,
) -> Result<Vec<Action>, Broken> {
    let read = tools.database.rollout_previous(&course.rollout_id, ordinals).await;
    let mut previous: BTreeMap<u32, NewSpec> =
        read.map_err(unread)?.into_iter().map(|(ordinal, spec, hash)| (ordinal, NewSpec::new(&spec, hash))).collect();
    let mut follow = Vec::new();
    let mut hands = Vec::with_capacity(ordinals.len());
    for ordinal in ordinals.iter().copied() {
        match old_hand(tools, course, ordinal, previous.remove(&ordinal)) {
            Some(hand) => hands.push(hand),
            None => follow.extend(course.take(Event::Overtaken { ordinal }, now)),
        }
    }
    let changes = hands.iter().cloned().map(|hand| Change::Rollout(RolloutChange::Restore(hand))).collect();
    let answers = tools.writer.submit_all_for(&course.asker, changes).await;
    let mut broken = None;
    for (hand, answer) in hands.into_iter().zip(answers) {
        let ordinal = hand.ordinal;
        let event = match answer {
            Ok(Committed { generation, .. }) => {
                tools.waker.wake_now(hand.compute_id);
                Event::Restored { ordinal, generation }
            }
            // The same content under a later generation is still ours.
            Err(WriteError::PreconditionFailed { spec_hash, .. }) if spec_hash.as_ref() == course.given(ordinal) => {
                Event::NotRestored { ordinal }
            }
            Err(WriteError::PreconditionFailed { generation, .. }) => {
                course.because(ordinal, format!("somebody else changed it since, to generation {generation}"));
                Event::Overtaken { ordinal }
            }
            Err(WriteError::UnknownCompute) => {
                course.because(ordinal, "it was deleted since");
                Event::Overtaken { ordinal }
            }
            Err(error) => {
                broken = Some(Broken::from(error));
                Event::NotRestored { ordinal }
            }
        };
        follow.extend(course.take(event, now));
    }
    broken.map_or(Ok(follow), Err)
}

/// The previous spec of a compute; none if it is not ours to put back.
fn old_hand(tools: &Tools, course: &mut Course, ordinal: u32, previous: Option<NewSpec>) -> Option<Hand> {
    let Some(Target::Restoring { .. }) = course.state.target(ordinal) else { return None };
    let compute_id = course.compute(ordinal).cloned()?;
    let Some(entry) = tools.snapshot.get(&compute_id) else {
        course.because(ordinal, "it was deleted since");
        return None;
    };
    let record = &entry.record;
    if record.spec_hash.as_ref() != course.given(ordinal) {
        course.because(ordinal, format!("somebody else changed it since, to generation {}", record.generation));
        return None;
    }
    if record.policy.wanted(record.generation).is_some() {
        course.because(ordinal, "an operator's action is under way");
        return None;
    }
    let (rollout_id, if_match) = (course.rollout_id.clone(), record.generation);
    Some(Hand { rollout_id, ordinal, compute_id, spec: previous?, if_match })
}
