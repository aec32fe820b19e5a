//! The room tests: this crate against a real PostgreSQL. One server per run, one database per test.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, as the tests themselves do")]

mod boot;
mod claim;
mod fence;
mod follow;
mod journal;
mod load;
mod migrating;
mod migrations;
mod notices;
mod outage;
mod retention;
mod rollout;
mod specs;
mod support;
mod tls;
mod wire;
mod writer;
