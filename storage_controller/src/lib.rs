//! A controller: one member of the cluster that elects a leader, and, while it leads, keeps every compute at its spec.
//!
//! Rooms and arrows are drawn in ARCHITECTURE.md; `tests/layering.rs` fails on an arrow that is not drawn. `app` puts the
//! rooms together and is the only place that knows all of them.

pub mod agents;
pub mod app;
pub mod config;
pub mod http;
pub mod leadership;
pub mod metrics;
pub mod observe;
pub mod reconcile;
pub mod rollout;
pub mod service;
