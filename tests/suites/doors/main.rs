//! What comes through the doors: tokens, bad input, conditions, the first version's commands, metrics.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod database_away;
mod deploy;
mod first_version;
mod metrics;
mod refusals;
mod start;
mod tokens;
