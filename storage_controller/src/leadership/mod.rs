//! Room 3, the chair: who leads, and everything that begins and ends with it.
//!
//! `domain::leadership::decide` decides; this room carries the decisions out and feeds the results back. Called by the
//! desk and the door through [`Handle`], and by `app`, which hands in what a leader does ([`Work`]). It calls persistence
//! (the leader row) and peers. Invariants: one task owns the machine; the `LeaderTerm` lives in the leader value and
//! leaves it only after every task it was shared with was joined.

mod ask;
mod clock;
mod confirm;
mod follow;
mod handle;
mod leader;
mod lease;
mod losses;
mod members;
mod metrics;
mod notices;
mod room;
mod snapshot;
mod takers;
mod trace;

pub use follow::Lines;
pub use handle::{Handle, Standing, StepDownRefusal, TakeOverRefusal};
pub use leader::{Mandate, Observations, SteppedDown, TakeUp, TakeUpError, Work};
pub use losses::{LossMetrics, Losses};
pub use members::Peer;
pub use metrics::{LeadershipMetrics, Phase};
pub use room::{Parts, Room, Settings, Warm};
pub use snapshot::pieces;
