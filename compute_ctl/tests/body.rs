//! The body: how PostgreSQL is stopped, survives, is copied and promoted, and what becomes of its log.

mod support;

#[path = "body/ends.rs"]
mod ends;
