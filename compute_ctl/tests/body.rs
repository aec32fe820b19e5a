//! The body: how PostgreSQL is stopped, survives, is copied and promoted, and what becomes of its log.

mod support;

#[path = "body/crashes.rs"]
mod crashes;
#[path = "body/ends.rs"]
mod ends;
#[path = "body/log.rs"]
mod log;
