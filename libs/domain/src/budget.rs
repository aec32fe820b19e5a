//! How often something may happen that costs a connection: a token bucket that keeps no timer.
//!
//! Who calls it: the controller's window and engine before they ask an agent that may not be there. Invariant: over any
//! time `t` at most `burst + t * per_second` were let through.

use std::time::Duration;

/// Time for which a debt can be at most.
const DEBT: Duration = Duration::from_secs(1);

/// A token bucket. Time is the caller's, since any beginning that is the same for all calls.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Between two tokens.
    each: Duration,
    /// How far ahead of an even flow a burst may be.
    ahead: Duration,
    /// When an even flow would let the next one through.
    next: Duration,
}

impl Budget {
    /// `per_second` tokens a second, and at most `burst` at once; both at least 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { each, ahead: each * (burst.max(1) - 1), next: Duration::ZERO }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// There is none; how long until there is one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        if let Some(wait) = self.wait(now) {
            return Err(wait);
        }
        self.next = self.next.max(now) + self.each;
        Ok(())
    }

    /// Takes a token for something that has happened already, though there may be none. Of what happens so at one time no
    /// more is remembered than a second's worth.
    pub fn owe(&mut self, now: Duration) {
        self.next = (self.next.max(now) + self.each).min(now + self.ahead + DEBT);
    }

    /// How long until there is a token; nothing if there is one.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        Some(self.next.saturating_sub(now + self.ahead)).filter(|wait| !wait.is_zero())
    }

    /// Whether nothing was taken of late.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.next <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_an_even_flow() {
        let mut budget = Budget::new(100, 5);
        let now = Duration::from_secs(7);
        assert_eq!((0..9).filter(|_| budget.take(now).is_ok()).count(), 5);
        assert_eq!(budget.take(now), Err(Duration::from_millis(10)));
        assert_eq!(budget.take(now + Duration::from_millis(10)), Ok(()));
        assert!(budget.take(now + Duration::from_millis(19)).is_err());
        // After a rest no more than a burst.
        let later = now + Duration::from_secs(60);
        assert_eq!((0..9).filter(|_| budget.take(later).is_ok()).count(), 5);
    }

    #[test]
    fn what_is_owed_has_to_be_waited_for_and_a_second_is_the_most() {
        let mut budget = Budget::new(100, 5);
        let now = Duration::from_secs(7);
        assert!(budget.is_full(now));
        for _ in 0..5 {
            assert_eq!(budget.wait(now), None);
            budget.owe(now);
        }
        assert_eq!((budget.wait(now), budget.is_full(now)), (Some(Duration::from_millis(10)), false));
        assert_eq!(budget.take(now), Err(Duration::from_millis(10)));
        (0..1000).for_each(|_| budget.owe(now));
        assert_eq!(budget.wait(now), Some(Duration::from_secs(1)));
        assert_eq!(budget.wait(now + Duration::from_secs(1)), None);
        assert!(budget.is_full(now + Duration::from_secs(2)));
    }

    #[test]
    fn over_any_time_the_rate_holds() {
        let mut budget = Budget::new(250, 10);
        let through = (0..4_000_u64).filter(|ms| budget.take(Duration::from_millis(*ms)).is_ok()).count();
        assert!((1000..=1010).contains(&through), "{through} in four seconds");
    }
}
