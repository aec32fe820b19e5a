//! What tests stand on: real PostgreSQL servers that start in a second and leave nothing behind.
//!
//! Who calls it: the room tests of crates that need a database, and the system tests. What it calls: the PostgreSQL
//! programs of this machine. Nothing in here is part of a product.

pub mod postgres;
