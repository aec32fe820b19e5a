//! Chaos: real processes and a real PostgreSQL under seeded faults, and the history of what they did.
//!
//! ```text
//!   schedule (seed) ──► engine ──► cast (members, agents) · database · faults (links, clocks)
//!                          │
//!   run ──► load ──────────┼──► recorder ──► history.ndjson ──► pgfleet-history::check ──► report
//!      └──► watchers ──────┘        ▲
//!              └──► audit ──────────┘        settle: heal, converge, end, look for what is left
//! ```
//!
//! Who calls it: `make chaos` through the program `chaos`, and one bounded run in the tests. What it calls: the programs as
//! processes, through the tests' harness. The same seed gives the same schedule; what the fleet makes of it is up to the
//! machine's scheduler, so a seed is run again to see whether a violation comes back.

pub mod audit;
pub mod cast;
pub mod database;
pub mod draw;
pub mod engine;
pub mod faults;
pub mod links;
pub mod load;
pub mod recorder;
pub mod report;
pub mod run;
pub mod schedule;
pub mod settle;
pub mod watchers;
