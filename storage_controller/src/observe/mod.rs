//! Room 6, the window: what is asked for and what was seen, side by side, for every compute.
//!
//! Called by the engine (probe results), the desk (committed records) and the door (reads). It calls the agents' room to
//! probe, the writer to store what changed, and the engine's waker. A member that does not lead keeps the same map in step
//! with the database ([`Follower`]) and lends it to its next leadership. A leader looks at every compute by itself
//! ([`Prober`]) and keeps a book of who answers ([`Presence`]). Invariants: a record enters only after its commit
//! and never goes back in `change_seq`; an observation replaces another only if it is newer.

mod flush;
mod follow;
mod hints;
mod memory;
mod metrics;
mod presence;
mod prober;
mod retention;
mod snapshot;

pub use flush::Flusher;
pub use follow::Follower;
pub use hints::Hints;
pub use memory::{Loan, Memory, Recall};
pub use metrics::{FollowerMetrics, PresenceMetrics};
pub use presence::{Contact, Presence, PresenceCounts, PresenceSettings, Turned};
pub use prober::{CALLS as PRESENCE_CALLS, Prober, ProberTools};
pub use retention::look_after_journal;
pub use snapshot::{Call, Entry, Filter, LagAges, Page, Snapshot, Tally, Trouble};
