//! Whether a compute can be worked with, and whether it is the fleet or ourselves that has gone silent.
//!
//! Who calls it: the controller's window, with every answer of an agent and every call that got none.
//!
//! ```text
//!                 answers, up                 no answer for max_offline, or ended and gone
//!   warming_up ───────────────▶ active ─────────────────────────────┐
//!     ▲   ▲    another boot that is not up yet │                      ▼
//!     │   └────────────────────────────────────┘                  offline
//!     └───────────── answers, not up yet ───────────────────────────┤
//!                                    active ◀──── answers, up ───────┘
//! ```
//!
//! Invariants: only agents' own answers to our own calls move a compute up; while (almost) the whole fleet is silent
//! nothing moves down, for that is our own fault until somebody answers; no clock is read here.

use std::time::Duration;

use pgfleet_api::availability::Availability;

/// What is known of one compute. Times are since a beginning that is the same for all calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not heard of yet, or its PostgreSQL is on its way.
    WarmingUp {
        /// Since when it has not answered.
        silent_since: Option<Duration>,
    },
    /// It answers.
    Active {
        /// Since when it has not answered.
        silent_since: Option<Duration>,
    },
    /// It has not answered for long, or was ended and its agent has gone.
    Offline,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It answered.
    Answered {
        /// Its PostgreSQL is not on its way up.
        is_up: bool,
        /// It is the process that answered last.
        same_boot: bool,
    },
    /// A call got no answer.
    Unanswered,
    /// A call got no answer, and none was expected: the compute was ended.
    Gone,
}

/// When silence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A compute that is silent for so long is offline.
    pub max_offline: Duration,
    /// Nothing counts before this moment: the whole fleet was silent until then.
    pub not_before: Duration,
    /// Nothing counts at all now.
    pub suspended: bool,
}

impl State {
    /// Where a compute begins that is new, or new to this leadership.
    #[must_use]
    pub const fn first(was_seen: bool) -> Self {
        if was_seen { Self::Active { silent_since: None } } else { Self::WarmingUp { silent_since: None } }
    }

    /// As clients see it.
    #[must_use]
    pub const fn availability(self) -> Availability {
        match self {
            Self::WarmingUp { .. } => Availability::WarmingUp,
            Self::Active { .. } => Availability::Active,
            Self::Offline => Availability::Offline,
        }
    }

    /// Whether the last call got no answer.
    #[must_use]
    pub const fn is_silent(self) -> bool {
        match self {
            Self::WarmingUp { silent_since } | Self::Active { silent_since } => silent_since.is_some(),
            Self::Offline => true,
        }
    }
}

/// The next state.
#[must_use]
pub fn transition(state: State, event: Event, now: Duration, patience: Patience) -> State {
    match (state, event) {
        (State::Active { .. }, Event::Answered { is_up, same_boot }) if is_up || same_boot => {
            State::Active { silent_since: None }
        }
        (State::WarmingUp { .. } | State::Offline, Event::Answered { is_up: true, .. }) => {
            State::Active { silent_since: None }
        }
        (State::WarmingUp { .. } | State::Active { .. } | State::Offline, Event::Answered { .. }) => {
            State::WarmingUp { silent_since: None }
        }
        (State::WarmingUp { silent_since } | State::Active { silent_since }, Event::Unanswered) => {
            let since = silent_since.unwrap_or(now);
            if is_over(since, now, patience) {
                return State::Offline;
            }
            let silent_since = Some(since);
            if matches!(state, State::Active { .. }) {
                State::Active { silent_since }
            } else {
                State::WarmingUp { silent_since }
            }
        }
        (State::Offline, Event::Unanswered)
        | (State::WarmingUp { .. } | State::Active { .. } | State::Offline, Event::Gone) => State::Offline,
    }
}

fn is_over(since: Duration, now: Duration, patience: Patience) -> bool {
    !patience.suspended && now.saturating_sub(since.max(patience.not_before)) >= patience.max_offline
}

/// A fleet smaller than this is never called silent: its computes may well have died together.
pub const LEAST: usize = 10;
/// From this share on, in percent, the silence is our own.
const SILENT_PERCENT: usize = 90;
/// From this share of the last looks on nobody is called offline, until the next looks tell more.
const DOUBT_PERCENT: usize = 50;
/// Looks that are remembered.
const WINDOW: usize = 64;

/// What changed about the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// (Almost) nobody answers.
    FellSilent,
    /// Enough answer again.
    SpeaksAgain,
}

/// Judges the fleet by the last looks at computes that were not known to be silent, a fair sample of it, and by how many
/// are silent now.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// The last looks, the latest in the lowest bit; 1 is no answer.
    looks: u64,
    /// How many there were, up to the window.
    seen: usize,
    is_silent: bool,
    /// When it last spoke again.
    spoke_at: Duration,
}

impl Fleet {
    /// A look, or an answer of one that was silent. `watched` computes are not offline; of them `silent` do not answer now.
    pub fn look(&mut self, answered: bool, watched: usize, silent: usize, now: Duration) -> Option<Turn> {
        self.looks = (self.looks << 1) | u64::from(!answered);
        self.seen = (self.seen + 1).min(WINDOW);
        let window = watched.clamp(1, WINDOW);
        let sampled = self.seen >= window && self.unanswered(watched) * 100 >= window * SILENT_PERCENT;
        let counted = silent * 100 >= watched * SILENT_PERCENT;
        let is_silent = watched >= LEAST && (sampled || counted);
        match (self.is_silent, is_silent) {
            (false, true) => {
                self.is_silent = true;
                Some(Turn::FellSilent)
            }
            (true, false) => {
                (self.is_silent, self.spoke_at) = (false, now);
                Some(Turn::SpeaksAgain)
            }
            (true, true) | (false, false) => None,
        }
    }

    /// No answers among the last looks.
    fn unanswered(&self, watched: usize) -> usize {
        let window = watched.clamp(1, WINDOW);
        let mask = if window == WINDOW { u64::MAX } else { (1_u64 << window) - 1 };
        (self.looks & mask).count_ones() as usize
    }

    /// Whether (almost) nobody answers.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// How silence counts now.
    #[must_use]
    pub fn patience(&self, max_offline: Duration, watched: usize) -> Patience {
        let doubtful = watched >= LEAST && self.unanswered(watched) * 100 >= watched.min(WINDOW) * DOUBT_PERCENT;
        Patience { max_offline, not_before: self.spoke_at, suspended: self.is_silent || doubtful }
    }
}

#[cfg(test)]
mod tests;
