//! The record of a run, and whether it keeps the promises.
//!
//! Called by the chaos suite, which writes histories, and by `pgfleet verify`, which reads them. Pure: it judges what is
//! given and asks nobody. What it calls: `api` for the words, `domain` for the rules.

pub mod event;

pub use event::{Answer, Call, Entry, Event};
