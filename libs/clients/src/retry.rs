//! The one back-off of all clients: capped, doubling, jittered.

use std::time::Duration;

use rand::Rng as _;

/// Grows from `base` to `cap`; every pause is drawn from the upper half of the current step, so that callers that
/// failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    step: u32,
}

impl Backoff {
    /// A back-off whose first pause is at most `base` and whose longest is at most `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, step: 0 }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let full = self.base.saturating_mul(1_u32.checked_shl(self.step.min(20)).unwrap_or(u32::MAX)).min(self.cap);
        self.step = self.step.saturating_add(1);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Begins again at `base`, after something worked.
    pub const fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_keep_half_of_their_length() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        for full in [10_u64, 20, 35, 35, 35] {
            let pause = backoff.next_pause();
            assert!(pause <= Duration::from_millis(full), "{pause:?} of {full}");
            assert!(pause >= Duration::from_micros(full * 500), "{pause:?} of {full}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(10));
    }

    #[test]
    fn a_long_outage_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for _ in 0..100 {
            assert!(backoff.next_pause() <= Duration::from_secs(60));
        }
    }
}
