//! Room 4, the engine: makes every compute follow its intent.
//!
//! Woken by the desk (a new spec), the window (a new observation) and its own timers; a wake carries no payload, so first
//! run, retry, restart and takeover are one path. It plans with `domain::reconcile`, pushes and probes through the agents'
//! room and notes what it saw in the window. What its operator lets it do is `domain::policy`; what it is about to do is in
//! the [`Outlook`]. An agent that has what the database lacks is governed again (`ahead`). A compute
//! that rests and may be suspended has a time when it is looked at again (`domain::suspend`). Invariants: the
//! same compute never runs twice at once; a pass is bounded and idempotent; one compute that always fails or panics delays
//! only itself ([`Quarantine`]), and so does one whose agent is slow or silent (`engine`, `queue`); all of it ends when the leadership ends.

mod ahead;
mod end;
mod engine;
mod metrics;
mod outlook;
mod pass;
mod preview;
mod quarantine;
mod queue;
mod scan;
mod suspend;
mod waker;

pub use ahead::{Heard, Tell};
pub use engine::{Engine, Settings};
pub use metrics::{ReconcileMetrics, Room};
pub use outlook::Outlook;
pub use pass::{Bench, MayAct};
pub use preview::Preview;
pub use quarantine::{Quarantine, Tools};
pub use waker::Waker;
