//! The messengers: HTTP clients of an agent, of a peer controller and of the cluster, and the tokens they carry.
//!
//! Who calls it: `storage_controller` (agent and peer), `compute_ctl` (controller), the CLI, tests and benches
//! (controller). What it calls: reqwest, and
//! hyper for the many agents. Errors are typed by what a caller can do about them; an HTTP status never
//! leaves this crate as a bare number that somebody has to interpret again.

pub mod agent;
pub mod connections;
pub mod controller;
pub mod forward;
pub mod peer;
pub mod retry;
pub mod token;
pub mod transport;

mod watched;

#[cfg(test)]
mod fake;

pub use transport::install_crypto_provider;
