//! The controllers' database fails over: Patroni runs it, its primary is killed under load.
//!
//! ```text
//!   kills (synchronous: nothing may be lost) ─┐             ┌─► patroni (etcd, nodes)
//!   lossy (asynchronous: what is lost is found)┴─► bed ──────┼─► members, a real agent
//!                    │                                      └─► load
//!                    └─► report
//! ```
//!
//! Who calls it: `make failover` through the program `failover`, and one bounded run in the tests. What it calls: the
//! programs as processes, through the tests' harness. What cannot be set up panics with one line that says why.

pub mod bed;
pub mod floor;
pub mod kills;
pub mod load;
pub mod lossy;
pub mod patroni;
pub mod report;
