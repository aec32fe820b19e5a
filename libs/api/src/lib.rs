//! The contract: every body, id and header that crosses a wire of pgfleet.
//!
//! Who calls it: all crates. What it calls: serde and nothing that does I/O. A type here changes only in ways
//! that an older reader survives, because two versions of a controller talk to each other during a rolling restart.

pub mod activity;
pub mod agent;
pub mod auth;
pub mod availability;
pub mod bulk;
pub mod compute;
pub mod controller;
pub mod errands;
pub mod error;
pub mod explain;
pub mod headers;
pub mod ids;
pub mod lsn;
pub mod plan;
pub mod policy;
pub mod resources;
pub mod rollout;
pub mod spec;
pub mod spec_text;

pub use error::{ErrorBody, ErrorCode};
pub use ids::{BootId, ClusterId, ComputeId, Fence, FenceMark, Generation, InstanceId, RolloutId, SpecHash, Term};
pub use lsn::Lsn;
pub use spec_text::SpecText;
