//! When work over one compute that panics again and again is left alone.
//!
//! ```text
//! Watched ── more than `limit` panics within `window` ──► Quarantined ── an operator clears it ──► Watched
//!                                                          └─ one try after each pause, the pause doubling
//! ```
//!
//! A panic is a defect of ours, so a quarantine never ends by itself: a try that goes well proves little, and an operator
//! is to look. What is beyond belief about a compute quarantines it at once ([`Event::Barred`]), whatever the limit. Times
//! are distances from one moment of the caller's own clock.

#![deny(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

/// When a compute is quarantined, and how it is tried then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Panics within `window` that are borne; one more quarantines.
    pub limit: u32,
    /// How long a panic counts.
    pub window: Duration,
    /// Pause before the first try.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Limits {
    /// The pause before the try after `tries` others.
    fn pause(&self, tries: u32) -> Duration {
        self.first_pause.saturating_mul(2_u32.saturating_pow(tries)).min(self.longest_pause)
    }
}

/// What is remembered of a compute. One that never panicked needs no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is worked on as any other.
    Watched {
        /// When it panicked, within the window; at most `limit` of them.
        panics: Vec<Duration>,
    },
    /// It is left alone but for a try now and then.
    Quarantined {
        /// Since when.
        since: Duration,
        /// Tries so far.
        tries: u32,
        /// When the next one may be made.
        until: Duration,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Watched { panics: Vec::new() }
    }
}

/// What happens to a compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants to work on it.
    Asked,
    /// Work on it panicked.
    Panicked,
    /// Something about it is beyond belief: it is left alone at once.
    Barred,
    /// An operator ends the quarantine.
    Cleared,
}

/// What follows from an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is worked on.
    Go,
    /// This is the one try; nobody else may before `next`.
    Try {
        /// When the next one may be made.
        next: Duration,
    },
    /// It is left alone.
    Wait {
        /// Until then.
        until: Duration,
    },
    /// It is quarantined from now on.
    Quarantine {
        /// When the first try may be made.
        until: Duration,
    },
}

/// The next state, and what follows.
#[must_use]
pub fn decide(state: &State, event: Event, now: Duration, limits: &Limits) -> (State, Verdict) {
    match (state, event) {
        (State::Watched { .. }, Event::Asked) => (state.clone(), Verdict::Go),
        (State::Watched { panics }, Event::Panicked) => {
            let mut panics: Vec<_> =
                panics.iter().copied().filter(|at| now.saturating_sub(*at) < limits.window).collect();
            panics.push(now);
            if panics.len() > limits.limit as usize {
                let until = now + limits.pause(0);
                (State::Quarantined { since: now, tries: 0, until }, Verdict::Quarantine { until })
            } else {
                (State::Watched { panics }, Verdict::Go)
            }
        }
        (State::Watched { .. }, Event::Barred) => {
            let until = now + limits.pause(0);
            (State::Quarantined { since: now, tries: 0, until }, Verdict::Quarantine { until })
        }
        (State::Quarantined { until, .. }, Event::Asked) if now < *until => {
            (state.clone(), Verdict::Wait { until: *until })
        }
        (State::Quarantined { since, tries, .. }, Event::Asked) => {
            let tries = tries.saturating_add(1);
            let next = now + limits.pause(tries);
            (State::Quarantined { since: *since, tries, until: next }, Verdict::Try { next })
        }
        // A try that panics: the next one stands already. A panic of what was under way when it was quarantined is no news.
        (State::Quarantined { until, .. }, Event::Panicked | Event::Barred) => {
            (state.clone(), Verdict::Wait { until: *until })
        }
        (State::Watched { .. } | State::Quarantined { .. }, Event::Cleared) => (State::default(), Verdict::Go),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        limit: 2,
        window: Duration::from_secs(600),
        first_pause: Duration::from_secs(60),
        longest_pause: Duration::from_secs(3600),
    };

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watched(panics: &[u64]) -> State {
        State::Watched { panics: panics.iter().map(|seconds| at(*seconds)).collect() }
    }

    fn held(since: u64, tries: u32, until: u64) -> State {
        State::Quarantined { since: at(since), tries, until: at(until) }
    }

    /// Every state with every event, before and after its time.
    #[test]
    fn the_table() {
        use Event::{Asked, Barred, Cleared, Panicked};
        use Verdict::{Go, Quarantine, Try, Wait};
        let rows = [
            (watched(&[]), Asked, 5, watched(&[]), Go),
            (watched(&[]), Panicked, 5, watched(&[5]), Go),
            (watched(&[5]), Panicked, 6, watched(&[5, 6]), Go),
            (watched(&[5, 6]), Asked, 7, watched(&[5, 6]), Go),
            (watched(&[5, 6]), Panicked, 7, held(7, 0, 67), Quarantine { until: at(67) }),
            // The first two are forgotten.
            (watched(&[5, 6]), Panicked, 606, watched(&[606]), Go),
            (watched(&[5, 6]), Panicked, 605, watched(&[6, 605]), Go),
            (watched(&[5, 6]), Cleared, 7, watched(&[]), Go),
            (watched(&[]), Barred, 7, held(7, 0, 67), Quarantine { until: at(67) }),
            (watched(&[5]), Barred, 7, held(7, 0, 67), Quarantine { until: at(67) }),
            (held(7, 1, 187), Barred, 68, held(7, 1, 187), Wait { until: at(187) }),
            (held(7, 0, 67), Asked, 66, held(7, 0, 67), Wait { until: at(67) }),
            (held(7, 0, 67), Asked, 67, held(7, 1, 187), Try { next: at(187) }),
            (held(7, 1, 187), Panicked, 68, held(7, 1, 187), Wait { until: at(187) }),
            (held(7, 1, 187), Asked, 200, held(7, 2, 440), Try { next: at(440) }),
            (held(7, 9, 9000), Asked, 9000, held(7, 10, 12600), Try { next: at(12600) }),
            (held(7, u32::MAX, 10), Asked, 10, held(7, u32::MAX, 3610), Try { next: at(3610) }),
            (held(7, 1, 187), Cleared, 100, watched(&[]), Go),
        ];
        for (state, event, now, next, verdict) in rows {
            assert_eq!(decide(&state, event, at(now), &LIMITS), (next, verdict), "{state:?} {event:?} {now}");
        }
    }

    #[test]
    fn a_limit_of_zero_quarantines_at_the_first() {
        let limits = Limits { limit: 0, ..LIMITS };
        let (_, verdict) = decide(&State::default(), Event::Panicked, at(1), &limits);
        assert_eq!(verdict, Verdict::Quarantine { until: at(61) });
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut state = State::default();
        for now in 0..100 {
            state = decide(&state, Event::Panicked, at(now * 400), &LIMITS).0;
            assert!(matches!(&state, State::Watched { panics } if panics.len() <= 2), "{state:?}");
        }
    }
}
