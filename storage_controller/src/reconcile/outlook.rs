//! What the engine is about to do with which compute, for whoever explains it.
//!
//! Written by the engine where it schedules, read by the desk. Bounded: only computes that are queued, worked on, failing or
//! waiting are in it; one that rests is not. A note never decides anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgfleet_api::ComputeId;
use pgfleet_domain::explain::Doing;
use tokio::time::Instant;

/// The handle. Cheap to clone; its lock is held for one map access.
#[derive(Debug, Clone, Default)]
pub struct Outlook(Arc<Mutex<BTreeMap<ComputeId, Note>>>);

#[derive(Debug, Clone, Copy)]
struct Note {
    stage: Stage,
    /// When this stage began.
    since: Instant,
    /// When the failures in a row began, and how many there were.
    failing: Option<(Instant, u32)>,
    /// Since when its agent is at work.
    waiting: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Queued,
    Working,
    Until(Instant),
}

impl Outlook {
    /// A panic between two assignments leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ComputeId, Note>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, id: &ComputeId, stage: Stage, change: impl FnOnce(&mut Note, Instant)) {
        let now = Instant::now();
        let mut notes = self.lock();
        let fresh = || Note { stage, since: now, failing: None, waiting: None };
        let note = notes.entry(id.clone()).or_insert_with(fresh);
        (note.stage, note.since) = (stage, now);
        change(note, now);
    }

    /// It waits for a place.
    pub(super) fn queued(&self, id: &ComputeId) {
        self.enter(id, Stage::Queued, |_, _| {});
    }

    /// It is worked on.
    pub(super) fn working(&self, id: &ComputeId) {
        self.enter(id, Stage::Working, |_, _| {});
    }

    /// It failed so often in a row, and is tried again then.
    pub(super) fn failed(&self, id: &ComputeId, times: u32, until: Instant) {
        self.enter(id, Stage::Until(until), |note, now| {
            let since = note.failing.filter(|_| times > 1).map_or(now, |(since, _)| since);
            (note.failing, note.waiting) = (Some((since, times)), None);
        });
    }

    /// Its agent is at work, and is asked again then.
    pub(super) fn waits(&self, id: &ComputeId, until: Instant) {
        self.enter(id, Stage::Until(until), |note, now| {
            (note.failing, note.waiting) = (None, note.waiting.or(Some(now)));
        });
    }

    /// Nothing is to be done with it.
    pub(super) fn rests(&self, id: &ComputeId) {
        self.lock().remove(id);
    }

    /// What is about to be done with a compute; nothing while it rests.
    #[must_use]
    pub fn of(&self, id: &ComputeId) -> Option<Doing> {
        let note = *self.lock().get(id)?;
        let lasts = note.since.elapsed();
        Some(match (note.stage, note.failing) {
            (Stage::Queued, _) => Doing::Queued(lasts),
            (Stage::Working, _) => Doing::Working(lasts),
            (Stage::Until(until), Some((since, times))) => {
                Doing::BackingOff { times, lasts: since.elapsed(), left: left(until) }
            }
            (Stage::Until(until), None) => {
                let lasts = note.waiting.unwrap_or(note.since).elapsed();
                Doing::Waiting { lasts, left: left(until) }
            }
        })
    }
}

fn left(until: Instant) -> std::time::Duration {
    until.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn failures_in_a_row_count_from_the_first() {
        let (outlook, id): (_, ComputeId) = (Outlook::default(), "a".parse().unwrap());
        let minute = Duration::from_secs(60);
        assert_eq!(outlook.of(&id), None);
        let mut lasted = Duration::ZERO;
        for failures in 1..=3 {
            outlook.queued(&id);
            assert!(matches!(outlook.of(&id), Some(Doing::Queued(lasts)) if lasts < minute));
            outlook.working(&id);
            assert!(matches!(outlook.of(&id), Some(Doing::Working(_))));
            outlook.failed(&id, failures, Instant::now() + minute);
            let Some(Doing::BackingOff { times, lasts, left }) = outlook.of(&id) else { panic!("it backs off") };
            assert!(times == failures && left <= minute && left > minute / 2);
            assert!(lasts >= lasted, "since the first of them");
            lasted = lasts;
        }
        outlook.waits(&id, Instant::now() + minute);
        assert!(matches!(outlook.of(&id), Some(Doing::Waiting { .. })));
        outlook.rests(&id);
        assert_eq!(outlook.of(&id), None);
    }
}
