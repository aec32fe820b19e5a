//! How many connections there are and how fast they come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::fleet::Fleet;

/// Seconds of which the number of connects is kept.
const SECONDS_KEPT: usize = 600;

/// Counts of connections, of all agents together.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    now: AtomicU64,
    most: AtomicU64,
    ever: AtomicU64,
    turned_away: AtomicU64,
    cut: AtomicU64,
    given_up: AtomicU64,
    seconds: Mutex<Seconds>,
}

#[derive(Debug, Default)]
struct Seconds {
    began: Option<Instant>,
    /// The second that is counted, and the connects of those before and of this one.
    last: u64,
    connects: VecDeque<u32>,
    most: u32,
}

/// Counts at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) now: u64,
    pub(crate) most: u64,
    pub(crate) ever: u64,
    pub(crate) turned_away: u64,
    pub(crate) cut: u64,
    pub(crate) given_up: u64,
    pub(crate) most_per_second: u32,
    pub(crate) per_second: Vec<u32>,
}

impl ConnectionCounts {
    pub(super) fn accepted(&self) {
        self.ever.fetch_add(1, Ordering::Relaxed);
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        seconds.roll();
        if let Some(last) = seconds.connects.back_mut() {
            *last += 1;
            let last = *last;
            seconds.most = seconds.most.max(last);
        }
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Begins to count anew; open ones stay counted.
    pub(crate) fn reset(&self) {
        for counter in [&self.ever, &self.turned_away, &self.cut, &self.given_up] {
            counter.store(0, Ordering::Relaxed);
        }
        self.most.store(self.open(), Ordering::Relaxed);
        *self.seconds.lock().unwrap_or_else(PoisonError::into_inner) = Seconds::default();
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        seconds.roll();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            now: of(&self.now),
            most: of(&self.most),
            ever: of(&self.ever),
            turned_away: of(&self.turned_away),
            cut: of(&self.cut),
            given_up: of(&self.given_up),
            most_per_second: seconds.most,
            per_second: seconds.connects.iter().copied().collect(),
        }
    }
}

impl Seconds {
    /// Goes on to the second that it is.
    fn roll(&mut self) {
        let began = *self.began.get_or_insert_with(Instant::now);
        let second = began.elapsed().as_secs();
        if self.connects.is_empty() {
            self.connects.push_back(0);
        }
        let missed = usize::try_from(second - self.last).unwrap_or(usize::MAX).min(SECONDS_KEPT);
        self.connects.extend(std::iter::repeat_n(0, missed));
        self.connects.drain(..self.connects.len().saturating_sub(SECONDS_KEPT));
        self.last = second;
    }
}

/// An open connection; counted until it goes.
#[derive(Debug)]
pub struct Counted(Arc<Fleet>);

impl Counted {
    pub(super) fn new(fleet: &Arc<Fleet>) -> Self {
        let counts = &fleet.connections;
        let now = counts.now.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most.fetch_max(now, Ordering::Relaxed);
        Self(Arc::clone(fleet))
    }

    /// Whose connection it is.
    pub(super) fn fleet(&self) -> &Fleet {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.now.fetch_sub(1, Ordering::Relaxed);
    }
}
