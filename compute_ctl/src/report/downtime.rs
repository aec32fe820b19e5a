//! How long PostgreSQL did not answer, from when it answered last.

use std::time::Duration;

use pgfleet_api::activity::Downtime;
use tokio::time::Instant;

/// Counts from the first answer on: what never ran is not down.
#[derive(Debug, Default)]
pub(super) struct Counter {
    answered: Option<Instant>,
    looked: Option<Instant>,
    current: Duration,
    total: Duration,
}

impl Counter {
    /// It answered.
    pub(super) fn answered(&mut self, now: Instant) {
        self.current = Duration::ZERO;
        self.answered = Some(now);
        self.looked = Some(now);
    }

    /// It did not.
    pub(super) fn failed(&mut self, now: Instant) {
        let (Some(answered), Some(looked)) = (self.answered, self.looked) else { return };
        self.current = now - answered;
        self.total += now - looked;
        self.looked = Some(now);
    }

    /// Whether it answered once.
    pub(super) fn has_begun(&self) -> bool {
        self.answered.is_some()
    }

    pub(super) fn reading(&self) -> Downtime {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Downtime { current_ms: ms(self.current), total_ms: ms(self.total) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_last_answer_and_adds_up() {
        let (begin, ms) = (Instant::now(), Duration::from_millis);
        let mut counter = Counter::default();
        counter.failed(begin);
        assert_eq!(counter.reading(), Downtime::default(), "what never answered is not down");
        counter.answered(begin + ms(1000));
        counter.failed(begin + ms(1500));
        counter.failed(begin + ms(2200));
        assert_eq!(counter.reading(), Downtime { current_ms: 1200, total_ms: 1200 });
        counter.answered(begin + ms(2500));
        assert_eq!(counter.reading(), Downtime { current_ms: 0, total_ms: 1200 });
        counter.failed(begin + ms(2800));
        assert_eq!(counter.reading(), Downtime { current_ms: 300, total_ms: 1500 });
    }
}
