//! The hands: what of a spec has to change in a running PostgreSQL, and the changing.
//!
//! Called by `lifecycle`. `settings`, `plan`, `roles`, `databases` and `upkeep` are pure; `catalog` reads, `execute` does,
//! through quiet sessions of `session`. Nothing is dropped that the spec does not name for it, one object that fails does
//! not stop the others, and no verifier reaches a log.

mod catalog;
mod databases;
mod execute;
mod facts;
mod metrics;
mod phase;
mod plan;
mod quote;
mod roles;
mod session;
mod settings;
mod step;
mod upkeep;

pub use execute::{Moment, ObjectFailure, Outcome, apply_catalog, preview};
pub use facts::{Catalog, KnownDatabase, KnownRole, Own, ServerFacts, Ties};
pub use metrics::ApplyMetrics;
pub use phase::Phase;
pub use plan::plan;
pub use settings::{Class, Setting, SettingError, classify, classify_all, collect};
pub use step::Step;
