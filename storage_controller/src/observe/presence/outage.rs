//! Calls in vain: how often agents that seemed to be there were not.
//!
//! Kept by the book. An owner's change does not wait for the connect budget, so when thousands vanish at once, and their
//! owners want something of them, nothing would hold those calls. Therefore each that finds an agent newly silent is owed,
//! at the rate of the budget, and while there is a debt whoever did not answer since it began is not called. Pure.

use std::time::Duration;

use pgfleet_domain::budget::Budget;

#[derive(Debug)]
pub(super) struct Outage {
    budget: Budget,
    /// When the first call of this outage was in vain.
    since: Duration,
}

impl Outage {
    pub(super) fn new(per_second: u32) -> Self {
        Self { budget: Budget::new(per_second, per_second / 10), since: Duration::ZERO }
    }

    pub(super) fn called_in_vain(&mut self, now: Duration) {
        if self.budget.is_full(now) {
            self.since = now;
        }
        self.budget.owe(now);
    }

    /// How long an agent is not called that answered last at `heard_at`.
    pub(super) fn wait(&self, now: Duration, heard_at: Option<Duration>) -> Option<Duration> {
        self.budget.wait(now).filter(|_| heard_at.is_none_or(|at| at < self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_hold_nobody_and_many_hold_whoever_has_not_answered_since() {
        let mut outage = Outage::new(100);
        let (before, now) = (Duration::from_secs(60), Duration::from_secs(70));
        for _ in 0..10 {
            assert_eq!(outage.wait(now, Some(before)), None);
            outage.called_in_vain(now);
        }
        let wait = Some(Duration::from_millis(10));
        assert_eq!((outage.wait(now, Some(before)), outage.wait(now, None)), (wait, wait));
        assert_eq!(outage.wait(now, Some(now)), None, "it has answered since");
        // It goes on as long as calls are in vain, and then it is over.
        let later = now + Duration::from_millis(50);
        outage.called_in_vain(later);
        (0..9).for_each(|_| outage.called_in_vain(later));
        assert!(outage.wait(later, Some(before)).is_some() && outage.wait(later, Some(now)).is_none());
        assert_eq!(outage.wait(now + Duration::from_secs(1), Some(before)), None);
    }

    #[test]
    fn over_any_time_the_rate_holds() {
        let (mut outage, mut called) = (Outage::new(200), 0);
        for ms in 0..5000 {
            let now = Duration::from_millis(ms);
            while outage.wait(now, None).is_none() {
                outage.called_in_vain(now);
                called += 1;
            }
        }
        assert!((1000..=1020).contains(&called), "{called} in five seconds");
    }
}
