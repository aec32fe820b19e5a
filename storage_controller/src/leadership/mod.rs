//! Room 3, the chair: who leads, and everything that begins and ends with it.
//!
//! `domain::leadership::decide` decides; this room carries the decisions out and feeds the results back. Called by the
//! desk and the door through [`Handle`], and by `app`, which hands in what a leader does ([`Work`]). It calls persistence
//! (the leader row) and peers. Invariants: one task owns the machine; the `LeaderTerm` lives in the leader value and
//! leaves it only after every task it was shared with was joined.

mod ask;
mod clock;
mod handle;
mod leader;
mod lease;
mod metrics;
mod room;
mod trace;

pub use handle::{Handle, NotThatLeader, Standing};
pub use leader::{Mandate, TakeUp, TakeUpError, Work};
pub use metrics::{LeadershipMetrics, Phase};
pub use room::{Parts, Room, Settings};
