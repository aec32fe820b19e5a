//! Chaos: real processes and a real PostgreSQL under seeded faults, and the history of what they did.

pub mod faults;
