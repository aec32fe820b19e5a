//! Operators who wait for this member to take over, and what they are told.

use std::time::Duration;

use pgfleet_api::controller::{LeaderRef, TakeOverResponse};
use tokio::sync::oneshot;

use super::handle::{TakeOverAnswer, TakeOverRefusal};

struct Taker {
    until: Duration,
    answer: oneshot::Sender<TakeOverAnswer>,
}

/// Those who wait.
#[derive(Default)]
pub(super) struct Takers(Vec<Taker>);

impl Takers {
    pub(super) fn wait(&mut self, until: Duration, answer: oneshot::Sender<TakeOverAnswer>) {
        self.0.push(Taker { until, answer });
    }

    /// It leads and serves.
    pub(super) fn done(&mut self, response: impl Fn() -> TakeOverResponse) {
        for taker in self.0.drain(..) {
            // A caller that went away wanted no more than that it happens.
            let _ = taker.answer.send(Ok(response()));
        }
    }

    /// It will not.
    pub(super) fn refuse(&mut self, why: &TakeOverRefusal) {
        for taker in self.0.drain(..) {
            let _ = taker.answer.send(Err(why.clone()));
        }
    }

    /// Whose time is over at `now` is told so.
    pub(super) fn time_out(&mut self, now: Duration, leader: impl Fn() -> Option<LeaderRef>) {
        let late = self.0.extract_if(.., |taker| now >= taker.until);
        for taker in late.collect::<Vec<_>>() {
            let _ = taker.answer.send(Err(TakeOverRefusal::NotInTime { leader: leader() }));
        }
    }
}
