//! The decisions: pure functions over plain values.
//!
//! Who calls it: both servers, the model and the simulations run these very functions. What it calls: `pgfleet-api` types
//! only. Invariants: nothing here waits, reads a clock, does I/O or keeps state between calls; time comes in as a value.

pub mod agenda;
pub mod availability;
pub mod budget;
pub mod explain;
pub mod fence;
pub mod leadership;
pub mod lifecycle;
pub mod loss;
pub mod percent;
pub mod places;
pub mod policy;
pub mod probing;
pub mod quarantine;
pub mod reconcile;
pub mod rollout;
pub mod spec;
pub mod suspend;
