//! The mind: the compute's state machine, its one owner, and who may ask it for what.
//!
//! `driver` is the only task that moves the machine; it owns the ledger and the server. `http` and the pull talk to it by
//! [`Handle`]: a bounded queue of requests, and a watch of what it publishes. `admission` judges a spec (fence first, then
//! content), `ends` says what follows from how it ended, `work` carries it out as one future that the driver polls beside
//! its queue, so that a new spec is admitted, and a termination heard, while an earlier spec is still being applied.
//! `body` is the seam between the driver and the world.
//!
//! Invariants: the ledger is durable before anything is done; a state changes only by `domain::lifecycle::transition`;
//! of several specs that wait only the last is applied; every caller gets an answer.

mod admission;
mod body;
mod boot;
mod disk;
mod driver;
mod ends;
mod handle;
mod metrics;
#[cfg(test)]
mod overtaken;
mod preview;
mod promote;
mod publish;
mod pull;
#[cfg(test)]
mod random;
mod refresh;
mod restart;
mod specs;
mod timings;
mod work;

pub use body::{Body, SpecSource, Tools};
pub use driver::{Driver, DriverError, Options, Pace, RestartPostgres};
pub use handle::{Admitted, Configure, Ended, Handle, Origin, Outcome, Refusal};
pub use metrics::LifecycleMetrics;
pub use preview::{Planned, Preview};
pub use pull::pull;
pub use timings::Timings;
