//! One process that is any number of agents: what a fleet is measured against where there is no room for the real one.
//!
//! ```text
//! connections (one listener, an agent per loopback address) ─► http::agent (the contract) ─► agent (pure, compact)
//! http::control (script, counters) ─► fleet ─► script (seeded draws)          handle (starts the process, asks it)
//! ```
//!
//! Who calls it: the benches, by [`handle::Sim`]; a person, by the program `fleet_sim`. What it calls: the wire types, the
//! decisions of the domain, the chassis of both servers. It shares with a real agent whatever can be shared: types, the rule
//! of the ledger, the rules of a spec, the state machine, the reading of bodies, the shape of errors. That the rest answers
//! the same is held by `tests/conformance.rs`, against a real `compute_ctl`.
//!
//! What it does not have is a PostgreSQL. A spec takes the time that the script says and is then in effect, or fails. The
//! names and values of settings are judged by a table of PostgreSQL 15; what needs the server itself (`GET /dbs_and_roles`
//! and the like) is answered as by an agent whose PostgreSQL cannot be asked. A setting that waits for a restart, an activity
//! and resources are never shown. The internal listener is not simulated.

pub mod address;
pub mod agent;
pub mod app;
pub mod connections;
mod descriptors;
pub mod fleet;
pub mod handle;
pub mod http;
pub mod script;
pub mod settings;
