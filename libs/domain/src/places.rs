//! How many may be under way at once, such that a few that hang do not stop the rest.
//!
//! Who calls it: the controller's engine for passes and its window for probes. One that has been under way for long gives
//! its place back and is counted among the slow ones, of which there may be more. Invariant: never more than
//! `limit + slow_limit` are under way.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::ops::Add;
use std::time::Duration;

/// Limits of [`Places`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// At once.
    pub limit: usize,
    /// That many slow ones do not count.
    pub slow_limit: usize,
    /// Whoever has been under way for so long is slow.
    pub slow_after: Duration,
}

/// Who is under way.
#[derive(Debug)]
pub struct Places<K, T> {
    limits: Limits,
    running: HashSet<K>,
    /// In the order of their beginning; some may have ended.
    young: VecDeque<(T, K)>,
    slow: HashSet<K>,
}

impl<K: Clone + Eq + Hash, T: Copy + Ord + Add<Duration, Output = T>> Places<K, T> {
    /// Nobody is under way.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, running: HashSet::new(), young: VecDeque::new(), slow: HashSet::new() }
    }

    /// Whether one more may begin.
    pub fn is_free(&mut self, now: T) -> bool {
        while let Some((begun, key)) = self.young.front() {
            let runs = self.running.contains(key);
            if runs && *begun + self.limits.slow_after > now {
                break;
            }
            if let Some((_, key)) = self.young.pop_front().filter(|_| runs) {
                self.slow.insert(key);
            }
        }
        self.running.len() - self.slow.len().min(self.limits.slow_limit) < self.limits.limit
    }

    /// One begins. `key` is its own for ever.
    pub fn begin(&mut self, key: K, now: T) {
        self.young.push_back((now, key.clone()));
        self.running.insert(key);
    }

    /// One ends.
    pub fn end(&mut self, key: &K) {
        self.running.remove(key);
        self.slow.remove(key);
    }

    /// When the next one that is under way turns slow.
    #[must_use]
    pub fn ripens(&self) -> Option<T> {
        let young = self.young.iter().find(|(_, key)| self.running.contains(key));
        young.map(|(begun, _)| *begun + self.limits.slow_after).filter(|_| self.slow.len() < self.limits.slow_limit)
    }

    /// How many are under way.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many of them are slow.
    #[must_use]
    pub fn slow(&self) -> usize {
        self.slow.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_slow_one_gives_its_place_back() {
        let mut places = Places::new(Limits { limit: 2, slow_limit: 1, slow_after: ms(100) });
        places.begin(1, ms(0));
        assert!(places.is_free(ms(0)));
        places.begin(2, ms(10));
        assert!(!places.is_free(ms(99)));
        assert_eq!(places.ripens(), Some(ms(100)));
        assert!(places.is_free(ms(100)));
        places.begin(3, ms(100));
        assert!(!places.is_free(ms(500)), "only one slow one is free of charge");
        assert_eq!((places.running(), places.slow(), places.ripens()), (3, 3, None));
        places.end(&3);
        assert!(places.is_free(ms(500)));
        places.end(&1);
        places.end(&2);
        assert_eq!((places.running(), places.slow()), (0, 0));
    }

    #[test]
    fn one_that_ended_in_time_was_never_slow() {
        let mut places = Places::new(Limits { limit: 1, slow_limit: 9, slow_after: ms(100) });
        for n in 0..5 {
            assert!(places.is_free(ms(n)));
            places.begin(n, ms(n));
            places.end(&n);
        }
        places.begin(9, ms(50));
        assert_eq!(places.ripens(), Some(ms(150)));
        assert!(!places.is_free(ms(149)));
        assert_eq!(places.slow(), 0);
        assert!(places.is_free(ms(150)));
    }
}
