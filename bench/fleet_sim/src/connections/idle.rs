//! Which connection is given up when descriptors become scarce: one that was not used since it was looked at last.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use crate::fleet::Fleet;

/// How many are given up at once: closing takes a moment, and the next connect is under way.
const AT_ONCE: usize = 64;

/// The open connections, in the order in which they are looked at.
pub(super) struct Idle {
    most: u64,
    queue: VecDeque<Weak<Place>>,
}

#[derive(Debug)]
struct Place {
    used: AtomicBool,
    give_up: Notify,
}

/// What a connection holds.
pub(super) struct Seat(Arc<Place>);

impl Seat {
    /// A request arrived.
    pub(super) fn used(&self) {
        self.0.used.store(true, Ordering::Relaxed);
    }

    /// Has the connection end after the request under way.
    pub(super) fn give_up(&self) {
        self.0.give_up.notify_one();
    }

    /// Returns when the connection should end after the request under way.
    pub(super) async fn given_up(&self) {
        self.0.give_up.notified().await;
    }
}

impl Idle {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.try_into().unwrap_or(u64::MAX), queue: VecDeque::new() }
    }

    /// A seat for a new connection. Where there are as many as may be, others are told to end.
    pub(super) fn seat(&mut self, fleet: &Fleet) -> Seat {
        if fleet.connections.open() >= self.most {
            self.close_some(fleet);
        }
        if self.queue.len() > 1024 && self.queue.len() as u64 > 2 * fleet.connections.open() {
            self.queue.retain(|place| place.strong_count() > 0);
        }
        let place = Arc::new(Place { used: AtomicBool::new(true), give_up: Notify::new() });
        self.queue.push_back(Arc::downgrade(&place));
        Seat(place)
    }

    /// Tells some connections to end: those that were not used for the longest time.
    pub(super) fn close_some(&mut self, fleet: &Fleet) {
        let mut told = 0;
        // Twice round at most: the first time may find that every one was used.
        for _ in 0..self.queue.len() * 2 {
            let Some(place) = self.queue.pop_front() else { return };
            let Some(known) = place.upgrade() else { continue };
            if known.used.swap(false, Ordering::Relaxed) {
                self.queue.push_back(place);
                continue;
            }
            known.give_up.notify_one();
            fleet.connections.given_up();
            told += 1;
            if told == AT_ONCE {
                return;
            }
        }
    }
}
