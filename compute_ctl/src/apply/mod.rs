//! The hands: what of a spec has to change in a running PostgreSQL, and the changing.
//!
//! Called by `lifecycle`. `settings` and `plan` are pure; `catalog` reads, `execute` does. Nothing is ever dropped, one
//! object that fails does not stop the others, and no verifier reaches a log.

mod catalog;
mod compare;
mod execute;
mod metrics;
mod plan;
mod preview;
mod quote;
#[cfg(test)]
mod round_trip;
mod settings;

pub use compare::{compare, shown};
pub use execute::{ObjectFailure, Outcome, apply_catalog};
pub use metrics::ApplyMetrics;
pub use plan::{Action, Catalog, KnownDatabase, KnownRole, Phase, plan};
pub use preview::{first, preview};
pub use settings::{Class, Setting, SettingError, classify, classify_all, collect, read_conf, refuse_all};
