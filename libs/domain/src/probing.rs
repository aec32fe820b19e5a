//! How soon an agent is asked again: soon after something has changed, rarely while nothing does.
//!
//! Who calls it: the controller's window. Invariant: no pause is longer than the longest by more than a quarter.

use std::time::Duration;

use crate::reconcile::backoff;

/// First pause after an agent did not answer.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest pause between two tries until it counts as offline.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// How much longer each pause is than the one before.
const GROWTH: u32 = 4;

/// Shortest and longest pause between two looks at an agent that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After a change.
    pub min: Duration,
    /// While nothing changes.
    pub max: Duration,
}

impl Pace {
    /// A longest pause below `min` bounds both.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min: min.min(max), max }
    }

    /// The pause after a look, from the one before: it grows fourfold while nothing changes. Twofold would be two more looks
    /// after each change, and whatever is still to be done is followed by the engine's own looks.
    #[must_use]
    pub fn after(&self, pause: Duration, news: bool) -> Duration {
        if news { self.min } else { pause.saturating_mul(GROWTH).clamp(self.min, self.max) }
    }

    /// The pause that a silent one has when it answers again, before it grows: many that return together make few looks.
    #[must_use]
    pub fn back(&self) -> Duration {
        self.max / (GROWTH * GROWTH)
    }

    /// The pause before try `attempt` (from 0) of an agent that did not answer, spread by `jitter` in `0.0..1.0`.
    #[must_use]
    pub fn retry(&self, attempt: u32, is_offline: bool, jitter: f64) -> Duration {
        let longest = if is_offline { self.max } else { LONGEST_RETRY.min(self.max) };
        backoff(attempt, FIRST_RETRY, longest, jitter)
    }
}

/// Spreads a pause by a quarter to both sides; `jitter` in `0.0..1.0`. Many that begin together drift apart.
#[must_use]
pub fn spread(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn soon_after_a_change_and_rarely_in_quiet() {
        let pace = Pace::new(s(1), s(30));
        let mut pause = pace.after(s(30), true);
        let mut pauses = vec![pause];
        for _ in 0..4 {
            pause = pace.after(pause, false);
            pauses.push(pause);
        }
        assert_eq!(pauses, [1, 4, 16, 30, 30].map(s));
        let short = Pace::new(s(1), Duration::from_millis(50));
        assert_eq!(short.after(Duration::ZERO, false), Duration::from_millis(50));
    }

    #[test]
    fn tries_are_spread_and_bounded() {
        let pace = Pace::new(s(1), s(30));
        assert_eq!(pace.retry(0, false, 1.0), Duration::from_millis(100));
        assert_eq!(pace.retry(40, false, 1.0), s(10));
        assert_eq!(pace.retry(40, true, 1.0), s(30));
        assert_eq!(pace.retry(40, true, 0.0), s(15));
        assert_eq!((spread(s(8), 0.0), spread(s(8), 1.0)), (s(6), s(10)));
    }
}
