//! Room 6, the window: what is asked for and what was seen, side by side, for every compute.
//!
//! Called by the engine (probe results), the desk (committed records) and the door (reads). It calls the agents' room to
//! probe, the writer to store what changed, and the engine's waker. A member that does not lead keeps the same map in step
//! with the database ([`Follower`]) and lends it to its next leadership. Invariants: a record enters only after its commit
//! and never goes back in `change_seq`; an observation replaces another only if it is newer.

mod flush;
mod follow;
mod hints;
mod memory;
mod metrics;
mod retention;
mod snapshot;
mod sweep;

pub use flush::Flusher;
pub use follow::Follower;
pub use hints::Hints;
pub use memory::{Loan, Memory, Recall};
pub use metrics::FollowerMetrics;
pub use retention::look_after_journal;
pub use snapshot::{Call, Entry, Filter, Snapshot, Tally, Trouble};
pub use sweep::{SweepSettings, sweep};
