//! Roll-outs: the whole decision as one pure function, and the patch that is put onto each spec.
//!
//! Called by the controller's rollout room, which carries the actions out and feeds their results back as events. Computes
//! are their places in the order (*ordinals*), which never changes. `now` is the leader's own clock; a later leader starts
//! every deadline afresh, so no two clocks are compared.
//!
//! ```text
//!            tick                all through           stayed healthy
//!  pending ───────► canary ─────────────────► soaking ────────────────► waving ──► soaking ──► … ──► done
//!     │                │  errors above budget    │                        │
//!     │                └──────────► halted ◄─────┴────────────────────────┘         each of these: pause ⇄ resume
//!     │   rollback (from anywhere)    │ resume: what failed is given up
//!     └──────────────────────► rolling_back ──────────► rolled_back          abort: aborted, nothing more is touched
//! ```
//!
//! Invariants: a compute is touched only while fewer than `max_unavailable` are touched and not healthy; none is touched
//! while paused, halted, or after the end; only what this roll-out changed is restored. What stands in the database is
//! enough to go on ([`State::resumed`]).
//!
//! Over 500 lines, because states, events and actions are one table; `decide`, `plan` and `patch` have files of their own.

#![deny(clippy::wildcard_enum_match_arm)]

mod decide;
pub mod patch;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use pgfleet_api::Generation;
use pgfleet_api::compute::{Observed, WaitOutcome};
pub use pgfleet_api::rollout::RolloutCommand as Command;
use pgfleet_api::rollout::{RolloutPhase, TargetPhase};

pub use decide::decide;
pub use plan::Plan;

use crate::reconcile::{Intent, settled};

/// Where a roll-out stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; nothing is touched.
    Pending,
    /// The first few.
    Canary,
    /// A wave is through and is watched until this moment.
    Soaking {
        /// On the leader's clock.
        until: Duration,
    },
    /// A later wave.
    Waving,
    /// An operator stopped it.
    Paused {
        /// What goes on.
        resume: Stage,
    },
    /// It stopped by itself.
    Halted {
        /// What goes on if an operator wants it to.
        resume: Stage,
        /// Why.
        why: Halt,
    },
    /// Back to the previous specs.
    RollingBack,
    /// Over.
    RolledBack,
    /// Over.
    Done,
    /// Over.
    Aborted,
}

/// What a pause or a halt interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    Pending,
    /// The first few.
    Canary,
    /// Watching; it begins anew.
    Soaking,
    /// A later wave.
    Waving,
    /// Back to the previous specs.
    RollingBack,
}

/// Why a roll-out stopped by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// More computes failed than may.
    ErrorBudget,
    /// As many computes as may be unavailable do not become healthy with their previous specs.
    NoRoom,
}

impl Halt {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ErrorBudget => "error_budget",
            Self::NoRoom => "no_room",
        }
    }

    /// For a person.
    #[must_use]
    pub const fn line(self) -> &'static str {
        match self {
            Self::ErrorBudget => "more computes failed than error_budget allows; roll back, or resume to accept them",
            Self::NoRoom => "max_unavailable computes stay unhealthy with their previous specs; mend them, or resume",
        }
    }
}

/// Where one compute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Not touched.
    Waiting,
    /// Its new spec is on its way into the database.
    Touching,
    /// It is there; the compute is not healthy yet.
    InFlight {
        /// Of the new spec.
        generation: Generation,
        /// When it counts as failed, on the leader's clock.
        until: Duration,
    },
    /// It applied it and runs.
    Healthy {
        /// Of the new spec.
        generation: Generation,
    },
    /// It did not, or fell ill.
    Failed {
        /// Of the new spec.
        generation: Generation,
    },
    /// It failed and an operator went on.
    GivenUp {
        /// Of the new spec.
        generation: Generation,
    },
    /// A rule refuses its spec with the patch; not touched.
    Refused,
    /// Left out; not touched.
    Skipped,
    /// It was so already; not touched.
    Unchanged,
    /// Its previous spec is on its way into the database.
    Restoring {
        /// Of the new spec.
        generation: Generation,
    },
    /// It is there; the compute is not healthy yet.
    Returning {
        /// Of the previous spec, as it was put back.
        generation: Generation,
        /// When it counts as not restored.
        until: Duration,
    },
    /// It applied it and runs.
    Restored,
    /// It did not.
    Unrestored {
        /// Of the previous spec, as it was put back.
        generation: Generation,
    },
    /// It did not, and an operator went on.
    Abandoned,
    /// Somebody else changed or deleted it since.
    Overtaken,
}

impl Target {
    /// The phase as it is stored and shown. What is on its way is not there.
    #[must_use]
    pub const fn phase(self) -> TargetPhase {
        match self {
            Self::Waiting | Self::Touching => TargetPhase::Waiting,
            Self::InFlight { .. } | Self::Restoring { .. } => TargetPhase::InFlight,
            Self::Healthy { .. } => TargetPhase::Healthy,
            Self::Failed { .. } => TargetPhase::Failed,
            Self::GivenUp { .. } => TargetPhase::GivenUp,
            Self::Refused => TargetPhase::Refused,
            Self::Skipped => TargetPhase::Skipped,
            Self::Unchanged => TargetPhase::Unchanged,
            Self::Returning { .. } => TargetPhase::Returning,
            Self::Restored => TargetPhase::Restored,
            Self::Unrestored { .. } => TargetPhase::Unrestored,
            Self::Abandoned => TargetPhase::Abandoned,
            Self::Overtaken => TargetPhase::Overtaken,
        }
    }

    /// Touched by us and not healthy.
    const fn is_open(self) -> bool {
        match self {
            Self::Touching | Self::InFlight { .. } | Self::Failed { .. } => true,
            Self::Restoring { .. } | Self::Returning { .. } | Self::Unrestored { .. } => true,
            Self::Waiting | Self::Healthy { .. } | Self::GivenUp { .. } | Self::Refused | Self::Skipped => false,
            Self::Unchanged | Self::Restored | Self::Abandoned | Self::Overtaken => false,
        }
    }

    /// It has our spec, or is about to.
    const fn is_ours(self) -> bool {
        match self {
            Self::Touching | Self::InFlight { .. } | Self::Healthy { .. } => true,
            Self::Failed { .. } | Self::GivenUp { .. } | Self::Restoring { .. } => true,
            Self::Waiting | Self::Refused | Self::Skipped | Self::Unchanged | Self::Returning { .. } => false,
            Self::Restored | Self::Unrestored { .. } | Self::Abandoned | Self::Overtaken => false,
        }
    }

    const fn is_error(self) -> bool {
        match self {
            Self::Failed { .. } | Self::Refused => true,
            Self::Waiting | Self::Touching | Self::InFlight { .. } | Self::Healthy { .. } | Self::GivenUp { .. } => {
                false
            }
            Self::Skipped | Self::Unchanged | Self::Restoring { .. } | Self::Returning { .. } => false,
            Self::Restored | Self::Unrestored { .. } | Self::Abandoned | Self::Overtaken => false,
        }
    }
}

/// How a compute does with the generation it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It applied it, or a later one, and runs.
    Healthy,
    /// Not yet, or not any more.
    Ill,
    /// Its agent gave it up, or it failed on it.
    Failed,
}

/// The gate: applied and running.
#[must_use]
pub fn health(intent: &Intent, generation: Generation, observed: Option<&Observed>) -> Health {
    match observed.and_then(|observed| settled(intent, generation, observed)) {
        Some(WaitOutcome::Applied) => Health::Healthy,
        Some(WaitOutcome::Rejected | WaitOutcome::Failed) => Health::Failed,
        Some(WaitOutcome::Timeout) | None => Health::Ill,
    }
}

/// What the room hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// An operator asks.
    Asked(Command),
    /// The new spec is in the database.
    Touched {
        /// Whose.
        ordinal: u32,
        /// Its counter.
        generation: Generation,
    },
    /// It is not: somebody else was faster, or the database was away. It is tried again.
    NotTouched {
        /// Whose.
        ordinal: u32,
    },
    /// It was so already.
    Unchanged {
        /// Which.
        ordinal: u32,
    },
    /// A rule refuses it.
    Refused {
        /// Which.
        ordinal: u32,
    },
    /// It is left out.
    Skipped {
        /// Which.
        ordinal: u32,
    },
    /// How it does.
    Seen {
        /// Which.
        ordinal: u32,
        /// With what it was given.
        health: Health,
    },
    /// The previous spec is in the database.
    Restored {
        /// Whose.
        ordinal: u32,
        /// Its counter.
        generation: Generation,
    },
    /// It is not: the database was away. It is tried again.
    NotRestored {
        /// Whose.
        ordinal: u32,
    },
    /// Somebody else changed or deleted it since we did.
    Overtaken {
        /// Which.
        ordinal: u32,
    },
}

/// What the room has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write down where this compute stands.
    Note(u32),
    /// Write down the phase, before anything else is touched.
    Enter,
    /// Give this compute the new spec.
    Touch(u32),
    /// Give this compute its previous spec.
    Restore(u32),
    /// The phase does not allow what was asked for.
    Refuse,
}

/// All there is to know of a roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    plan: Plan,
    phase: Phase,
    /// The wave that is changed or watched; 0 is the canary's.
    wave: u32,
    targets: Vec<Target>,
    /// Everybody before this one was handed out at least once.
    next: u32,
    /// Before `next`, and waiting again.
    again: BTreeSet<u32>,
    /// Touched and not healthy.
    open: BTreeSet<u32>,
    /// How many have our spec.
    ours: u32,
    /// How many count against the budget.
    errors: u32,
    /// On the way back, nobody from here on is healthy with our spec: it was handed out, or is open.
    back: u32,
}

/// What the database has of a roll-out, beside its computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The phase.
    pub phase: RolloutPhase,
    /// What a pause or halt interrupts.
    pub resume: Option<Stage>,
    /// Why it halted.
    pub why: Option<Halt>,
    /// The wave.
    pub wave: u32,
}

impl State {
    /// A roll-out as the database has it. Every deadline begins now.
    #[must_use]
    pub fn resumed(plan: Plan, stored: Stored, targets: Vec<Target>, now: Duration) -> Self {
        let resume = stored.resume.unwrap_or(Stage::Pending);
        let phase = match stored.phase {
            RolloutPhase::Pending => Phase::Pending,
            RolloutPhase::Canary => Phase::Canary,
            RolloutPhase::Soaking => Phase::Soaking { until: now + plan.soak },
            RolloutPhase::Waving => Phase::Waving,
            RolloutPhase::Halted => Phase::Halted { resume, why: stored.why.unwrap_or(Halt::ErrorBudget) },
            RolloutPhase::RollingBack => Phase::RollingBack,
            RolloutPhase::RolledBack => Phase::RolledBack,
            RolloutPhase::Done => Phase::Done,
            RolloutPhase::Aborted => Phase::Aborted,
            // A word of a later build: hands off until somebody says what to do.
            RolloutPhase::Paused | RolloutPhase::Unknown => Phase::Paused { resume },
        };
        let waits = |target: &Target| *target == Target::Waiting;
        let mut eligible = targets.iter().take(plan.computes as usize);
        let next = eligible.rposition(|target| !waits(target)).map_or(0, |last| last + 1);
        let ordinals = |of: fn(Target) -> bool| {
            let all = targets.iter().zip(0..).filter(move |(target, _)| of(**target));
            all.map(|(_, ordinal)| ordinal)
        };
        let again = targets.iter().zip(0..).take(next).filter(|(target, _)| waits(target)).map(|(_, ordinal)| ordinal);
        let next = u32::try_from(next).unwrap_or(u32::MAX);
        Self {
            phase,
            wave: stored.wave.max(plan.first_wave()),
            next,
            again: again.collect(),
            open: ordinals(Target::is_open).collect(),
            ours: count(ordinals(Target::is_ours)),
            errors: count(ordinals(Target::is_error)),
            back: next,
            plan,
            targets,
        }
    }

    /// The plan.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The phase.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// One compute.
    #[must_use]
    pub fn target(&self, ordinal: u32) -> Option<Target> {
        self.targets.get(ordinal as usize).copied()
    }

    /// Computes that are touched and not healthy.
    #[must_use]
    pub fn unavailable(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }

    /// What is to be stored of it.
    #[must_use]
    pub const fn stored(&self) -> Stored {
        let (phase, resume, why) = match self.phase {
            Phase::Pending => (RolloutPhase::Pending, None, None),
            Phase::Canary => (RolloutPhase::Canary, None, None),
            Phase::Soaking { .. } => (RolloutPhase::Soaking, None, None),
            Phase::Waving => (RolloutPhase::Waving, None, None),
            Phase::Paused { resume } => (RolloutPhase::Paused, Some(resume), None),
            Phase::Halted { resume, why } => (RolloutPhase::Halted, Some(resume), Some(why)),
            Phase::RollingBack => (RolloutPhase::RollingBack, None, None),
            Phase::RolledBack => (RolloutPhase::RolledBack, None, None),
            Phase::Done => (RolloutPhase::Done, None, None),
            Phase::Aborted => (RolloutPhase::Aborted, None, None),
        };
        Stored { phase, resume, why, wave: self.wave }
    }

    /// Whose health matters now, with the generation that each was given: what is not healthy, and the wave that is watched.
    #[must_use]
    pub fn watched(&self) -> Vec<(u32, Generation)> {
        let mut watched: Vec<_> = self.open.iter().filter_map(|ordinal| self.given(*ordinal)).collect();
        let soaks = match self.phase {
            Phase::Soaking { .. } | Phase::Paused { resume: Stage::Soaking } => true,
            Phase::Pending | Phase::Canary | Phase::Waving | Phase::Paused { .. } | Phase::Halted { .. } => false,
            Phase::RollingBack | Phase::RolledBack | Phase::Done | Phase::Aborted => false,
        };
        if soaks {
            let wave = self.plan.start(self.wave)..self.plan.end(self.wave);
            watched
                .extend(wave.filter(|ordinal| !self.open.contains(ordinal)).filter_map(|ordinal| self.given(ordinal)));
        }
        watched
    }

    fn given(&self, ordinal: u32) -> Option<(u32, Generation)> {
        let generation = match self.target(ordinal)? {
            Target::InFlight { generation, .. } | Target::Healthy { generation } => generation,
            Target::Returning { generation, .. } | Target::Unrestored { generation } => generation,
            Target::Waiting | Target::Touching | Target::Failed { .. } | Target::GivenUp { .. } => return None,
            Target::Refused | Target::Skipped | Target::Unchanged | Target::Restoring { .. } => return None,
            Target::Restored | Target::Abandoned | Target::Overtaken => return None,
        };
        Some((ordinal, generation))
    }

    fn set(&mut self, ordinal: u32, new: Target) {
        let Some(slot) = self.targets.get_mut(ordinal as usize) else { return };
        let old = std::mem::replace(slot, new);
        self.ours = self.ours + u32::from(new.is_ours()) - u32::from(old.is_ours());
        self.errors = self.errors + u32::from(new.is_error()) - u32::from(old.is_error());
        if new.is_open() {
            self.open.insert(ordinal);
        } else {
            self.open.remove(&ordinal);
        }
    }
}

impl Stage {
    /// The word in the database.
    #[must_use]
    pub const fn phase(self) -> RolloutPhase {
        match self {
            Self::Pending => RolloutPhase::Pending,
            Self::Canary => RolloutPhase::Canary,
            Self::Soaking => RolloutPhase::Soaking,
            Self::Waving => RolloutPhase::Waving,
            Self::RollingBack => RolloutPhase::RollingBack,
        }
    }

    /// The stage of that name.
    #[must_use]
    pub const fn of(phase: RolloutPhase) -> Option<Self> {
        match phase {
            RolloutPhase::Pending => Some(Self::Pending),
            RolloutPhase::Canary => Some(Self::Canary),
            RolloutPhase::Soaking => Some(Self::Soaking),
            RolloutPhase::Waving => Some(Self::Waving),
            RolloutPhase::RollingBack => Some(Self::RollingBack),
            RolloutPhase::Paused | RolloutPhase::Halted | RolloutPhase::RolledBack => None,
            RolloutPhase::Done | RolloutPhase::Aborted | RolloutPhase::Unknown => None,
        }
    }
}

fn count(of: impl Iterator) -> u32 {
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}
