//! The chassis that both servers stand on: named tasks, signals, listeners with deadlines, the error body,
//! authentication, request ids, latency metrics and their encoding. No domain knowledge lives here.
//!
//! Who calls it: `storage_controller` and `compute_ctl`. What it calls: `pgfleet-api` and libraries.

pub mod auth;
pub mod descriptors;
pub mod exit;
pub mod http;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod panic_door;
pub mod pause;
pub mod port_file;
pub mod queue;
pub mod signals;
pub mod supervisor;
pub mod tls;
pub mod traces;

pub use supervisor::{Kind, TaskGroup};
