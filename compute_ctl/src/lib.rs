//! The agent: owns one PostgreSQL server and makes it follow the specs it is given.
//!
//! `main` parses, `app` builds (binds, checks, spawns nothing) and runs. Rooms, from the door inwards: `http` (routes),
//! `lifecycle` (the state machine and its one owner), `ledger` (what was promised, durably), `apply` (settings, roles,
//! databases), `storage` (the data directory), `postgres` (the process, its files, its connections).

pub mod app;
pub mod config;
pub mod metrics;

pub mod apply;
pub mod http;
pub mod ledger;
pub mod lifecycle;
pub mod postgres;
pub mod report;
pub mod storage;
