//! The hands: what of a spec has to change in a running PostgreSQL, and the changing.
//!
//! Called by `lifecycle`. `settings`, `plan`, `roles`, `databases` and `upkeep` are pure; `catalog` reads, `execute` does,
//! through quiet sessions of `session`. Nothing is dropped that the spec does not name for it, one object that fails does
//! not stop the others, and no verifier reaches a log.

mod catalog;
mod compare;
mod databases;
mod execute;
mod facts;
mod metrics;
mod outcome;
mod phase;
mod plan;
mod preview;
mod quote;
mod roles;
#[cfg(test)]
mod round_trip;
mod session;
mod settings;
mod step;
mod upkeep;

pub use compare::{compare, shown};
pub use execute::{Moment, apply_catalog};
pub use facts::{Catalog, KnownDatabase, KnownRole, Own, ServerFacts, Ties};
pub use metrics::ApplyMetrics;
pub use outcome::{ObjectFailure, Outcome};
pub use pgfleet_domain::spec::{Setting, SettingError, collect, read_conf};
pub use phase::Phase;
pub use plan::plan;
pub use preview::{first, preview};
pub use settings::{Class, classify, classify_all, refuse_all};
pub use step::Step;
