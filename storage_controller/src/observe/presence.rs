//! Who answers, who does not, and how soon each is asked again: one leadership's book of its agents.
//!
//! Written by the prober and by the engine's passes, whose calls are contacts as well; read by the engine (whoever is
//! silent is asked by the prober alone), the desk ([`Presence::show`]) and a scrape ([`Presence::counts`]). It calls
//! `domain::availability` and `domain::probing` to decide. Invariants: counts are kept, never walked; the lock guards
//! plain maps and is held across no await.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::ComputeState;
use pgfleet_api::availability::Availability;
use pgfleet_api::compute::{ComputeView, Observed};
use pgfleet_domain::availability::{Event, Fleet, State, Turn, transition};
use pgfleet_domain::budget::Budget;
use pgfleet_domain::explain::Doing;
use pgfleet_domain::probing::{Pace, spread};
use tokio::time::Instant;

use self::outage::Outage;
use super::Entry;

mod outage;

/// How agents are looked after.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// Pauses between two looks.
    pub pace: Pace,
    /// Whoever is silent for so long is offline.
    pub max_offline: Duration,
    /// Agents asked per second, all together, that have not answered last or not yet.
    pub connect_rate: u32,
}

/// What the last contact with an agent was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// There was none in this leadership.
    Unheard,
    /// It answered.
    Answers,
    /// It did not answer.
    Silent,
}

/// What a contact has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turned {
    /// It had been silent and answers again.
    pub is_back: bool,
    /// It went offline, or came from there.
    pub moved: Option<Availability>,
    /// For how long it had been silent.
    pub silent_for: Duration,
}

/// What a scrape reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PresenceCounts {
    /// Computes by availability, in the order of [`Availability::ALL`].
    pub by_availability: [usize; Availability::ALL.len()],
    /// Computes that are not offline and did not answer last.
    pub silent: usize,
    /// (Almost) the whole fleet is silent.
    pub fleet_silent: bool,
}

/// The book. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Presence {
    book: Arc<Mutex<Book>>,
    began: Instant,
    settings: PresenceSettings,
}

#[derive(Debug)]
struct Book {
    courses: HashMap<ComputeId, Course>,
    counts: PresenceCounts,
    fleet: Fleet,
    budget: Budget,
    outage: Outage,
}

/// What is kept of one compute.
#[derive(Debug, Clone, Copy)]
struct Course {
    state: State,
    /// When it answered last.
    heard_at: Option<Duration>,
    silent_since: Duration,
    /// Pause between the last two looks.
    pause: Duration,
    /// Tries without an answer.
    failures: u32,
    /// When the last look was over, and when the next one is due.
    looked_at: Duration,
    due_at: Duration,
}

impl Course {
    const fn contact(&self) -> Contact {
        if self.state.is_silent() {
            Contact::Silent
        } else if self.heard_at.is_some() {
            Contact::Answers
        } else {
            Contact::Unheard
        }
    }
}

impl Book {
    fn count(&mut self, state: State, more: bool) {
        let change = |count: &mut usize| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        let index = Availability::ALL.iter().position(|known| *known == state.availability());
        if let Some(count) = index.and_then(|index| self.counts.by_availability.get_mut(index)) {
            change(count);
        }
        if state.is_silent() && state != State::Offline {
            change(&mut self.counts.silent);
        }
    }

    /// How many are not offline.
    fn watched(&self) -> usize {
        let [active, warming_up, _] = self.counts.by_availability;
        active + warming_up
    }
}

impl Presence {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(settings: PresenceSettings) -> Self {
        // A tenth of a second's worth at once.
        let budget = Budget::new(settings.connect_rate, settings.connect_rate / 10);
        let outage = Outage::new(settings.connect_rate);
        let (courses, counts, fleet) = (HashMap::new(), PresenceCounts::default(), Fleet::default());
        let book = Book { courses, counts, fleet, budget, outage };
        Self { book: Arc::new(Mutex::new(book)), began: Instant::now(), settings }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest and the shortest pause between two looks.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.settings.pace
    }

    /// Begins to look after a compute. `false`: it was known.
    pub fn meet(&self, entry: &Entry) -> bool {
        let mut book = self.lock();
        if book.courses.contains_key(&entry.record.compute_id) {
            return false;
        }
        let was_seen = entry.observed.as_ref().is_some_and(|seen| seen.state != ComputeState::Terminated);
        let state = if has_ended(entry) { State::Offline } else { State::first(was_seen) };
        let course = Course {
            state,
            heard_at: None,
            silent_since: Duration::ZERO,
            pause: self.settings.pace.max,
            failures: 0,
            looked_at: Duration::ZERO,
            due_at: Duration::ZERO,
        };
        book.count(state, true);
        book.courses.insert(entry.record.compute_id.clone(), course);
        true
    }

    /// Forgets a compute that is deleted.
    pub fn forget(&self, id: &ComputeId) {
        let mut book = self.lock();
        if let Some(course) = book.courses.remove(id) {
            book.count(course.state, false);
        }
    }

    /// The last contact. Nothing is known of a compute that was not met.
    #[must_use]
    pub fn contact(&self, id: &ComputeId) -> Contact {
        self.lock().courses.get(id).map_or(Contact::Unheard, Course::contact)
    }

    /// Takes a place in the connect budget.
    ///
    /// # Errors
    /// There is none; how long until there is one.
    pub fn take_connect(&self) -> Result<(), Duration> {
        self.lock().budget.take(self.began.elapsed())
    }

    /// How long even an owner's change has to wait before its agent is called: so many calls were in vain of late that this
    /// one may be as well. Nothing for an agent that has answered since that began, or with which there still is a connection.
    #[must_use]
    pub fn has_to_wait(&self, id: &ComputeId, is_connected: impl FnOnce() -> bool) -> Option<Duration> {
        let now = self.began.elapsed();
        let wait = {
            let book = self.lock();
            book.outage.wait(now, book.courses.get(id).and_then(|course| course.heard_at))
        };
        wait.filter(|_| !is_connected())
    }

    /// An agent answered. `before` is what was known when it was asked.
    pub fn answered(&self, before: &Entry, observed: &Observed) -> Turned {
        let is_up = !matches!(
            observed.state,
            ComputeState::Init | ComputeState::ConfigurationPending | ComputeState::Configuration
        );
        let same_boot = before.observed.as_ref().is_some_and(|seen| seen.boot_id == observed.boot_id);
        self.happened(before, Event::Answered { is_up, same_boot })
    }

    /// An agent answered something that says nothing about its compute.
    pub fn spoke(&self, before: &Entry) -> Turned {
        self.happened(before, Event::Answered { is_up: true, same_boot: true })
    }

    /// An agent did not answer.
    pub fn unanswered(&self, before: &Entry) -> Turned {
        self.happened(before, if has_ended(before) { Event::Gone } else { Event::Unanswered })
    }

    fn happened(&self, before: &Entry, event: Event) -> Turned {
        self.meet(before);
        let now = self.began.elapsed();
        let mut book = self.lock();
        let book = &mut *book;
        let watched = book.watched();
        let patience = book.fleet.patience(self.settings.max_offline, watched);
        let Some(course) = book.courses.get_mut(&before.record.compute_id) else { return Turned::default() };
        let (old, was_silent) = (course.state, course.state.is_silent());
        let new = transition(old, event, now, patience);
        course.state = new;
        if new.is_silent() && !was_silent {
            course.silent_since = now;
        }
        match event {
            Event::Answered { .. } => {
                // Whoever comes and goes is asked no sooner for it: two answers in a row tell that it stays.
                course.failures = if was_silent { course.failures } else { 0 };
                course.heard_at = Some(now);
            }
            Event::Unanswered => course.failures = course.failures.saturating_add(1),
            Event::Gone => {}
        }
        let silent_for = now.saturating_sub(course.silent_since);
        book.count(old, false);
        book.count(new, true);
        let answered = matches!(event, Event::Answered { .. });
        let falls_silent = event == Event::Unanswered && !was_silent;
        if falls_silent {
            book.outage.called_in_vain(now);
        }
        // Repeated silence of the same is no further look at the fleet.
        if answered || falls_silent {
            let (watched, silent) = (book.watched(), book.counts.silent);
            let turn = book.fleet.look(answered, watched, silent, now);
            say(turn, watched, silent);
            book.counts.fleet_silent = book.fleet.is_silent();
        }
        let (was, is) = (old.availability(), new.availability());
        let moved = (was != is && (was == Availability::Offline || is == Availability::Offline)).then_some(is);
        // That one which was ended has no agent any more is nothing to speak of.
        let moved = moved.filter(|_| event != Event::Gone);
        Turned { is_back: was_silent && !new.is_silent(), moved, silent_for }
    }

    /// How long until the next look, and whether that one is paid from the connect budget.
    pub(super) fn next_look(&self, id: &ComputeId, news: bool) -> (Duration, bool) {
        let pace = self.settings.pace;
        let (mut book, now) = (self.lock(), self.began.elapsed());
        let Some(course) = book.courses.get_mut(id) else { return (pace.max, true) };
        let jitter = rand::random::<f64>();
        let is_silent = course.state.is_silent() && course.failures > 0;
        course.pause = if is_silent { pace.back() } else { pace.after(course.pause, news) };
        let pause = if is_silent {
            pace.retry(course.failures - 1, course.state == State::Offline, jitter)
        } else {
            spread(course.pause, jitter)
        };
        (course.looked_at, course.due_at) = (now, now + pause);
        (pause, course.contact() != Contact::Answers)
    }

    /// How the agent of a compute is asked that does not answer; `None`: it does.
    #[must_use]
    pub fn doing(&self, id: &ComputeId) -> Option<Doing> {
        let (book, now) = (self.lock(), self.began.elapsed());
        let course = book.courses.get(id).filter(|course| course.state.is_silent() && course.failures > 0)?;
        Some(Doing::BackingOff {
            times: course.failures,
            lasts: now.saturating_sub(course.silent_since),
            left: course.due_at.saturating_sub(now),
        })
    }

    /// How long until a look that somebody hints at is not too soon after the last one.
    pub(super) fn too_soon(&self, id: &ComputeId) -> Duration {
        let looked_at = self.lock().courses.get(id).map_or(Duration::ZERO, |course| course.looked_at);
        (looked_at + self.settings.pace.min / 4).saturating_sub(self.began.elapsed())
    }

    /// The time for the first looks at so many computes: it leaves a quarter of the connect budget to others.
    pub(super) fn first_looks_within(&self, computes: usize) -> Duration {
        let computes = u32::try_from(computes).unwrap_or(u32::MAX);
        let by_budget = Duration::from_secs(4) * computes / (self.settings.connect_rate.saturating_mul(3).max(1));
        self.settings.pace.max.max(by_budget)
    }

    /// Somebody wants to hear of a silent one soon: its tries begin anew.
    pub(super) fn wanted(&self, id: &ComputeId) {
        if let Some(course) = self.lock().courses.get_mut(id) {
            course.failures = course.failures.min(1);
        }
    }

    /// Adds to a view what is known here.
    pub fn show(&self, view: &mut ComputeView) {
        view.availability = self.lock().courses.get(&view.compute_id).map(|course| course.state.availability());
    }

    /// Counts for metrics.
    #[must_use]
    pub fn counts(&self) -> PresenceCounts {
        self.lock().counts
    }
}

fn say(turn: Option<Turn>, watched: usize, silent: usize) {
    match turn {
        Some(Turn::FellSilent) => tracing::error!(
            computes = watched,
            silent,
            "(almost) no agent answers: that is rather this member's network, name service or token than the fleet; look \
             there. Nobody is called offline meanwhile"
        ),
        Some(Turn::SpeaksAgain) => tracing::info!(computes = watched, silent, "the fleet answers again"),
        None => {}
    }
}

/// One that was ended has no agent any more.
pub(super) fn has_ended(entry: &Entry) -> bool {
    entry.observed.as_ref().is_some_and(|seen| seen.state == ComputeState::Terminated)
}

#[cfg(test)]
mod tests;
