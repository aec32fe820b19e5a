//! The memory of the controller: everything it knows about PostgreSQL as its own database.
//!
//! Who calls it: `storage_controller`, and nobody else. What it calls: PostgreSQL. It knows no HTTP and no clients.
//!
//! ```text
//!   Database ── bootstrap, read_leader, load, spec_text, history, pending, rehearse, migrate (pool, short sessions)
//!            └─ listen ──▶ Notices                                                           (a session each)
//!            ├─ look_after_journal ── partitions, tombstones                        (a session each time)
//!   Tail ── load, then catch_up by change_seq                                   (own session, one snapshot each)
//!   LeaseSession ── claim ──▶ LeaderTerm ── Arc ──▶ WriterTask ◀── queue ── Writer (many clones)
//!               └─ renew, release, end_sessions_of
//!   ConfirmSession ── still_leads: for reads from memory
//! ```
//!
//! Invariants: a [`LeaderTerm`] exists only for a claim that is known to be committed; every write but bootstrap, claim,
//! renewal and release happens in a transaction that begins with the fence; only the one [`WriterTask`] draws
//! `change_seq`, so its order is the commit order; a fenced transaction is never cancelled by a caller that goes away.
//! Errors are told apart by SQLSTATE ([`ErrorClass`]), never by text. `session` says why two drivers live here.

mod bootstrap;
mod compat;
mod config;
mod confirm;
mod database;
mod dial;
mod error;
mod follow;
mod lease;
mod load;
mod migrate;
mod notices;
mod records;
mod rehearse;
mod release;
mod retention;
mod rollout;
mod schema;
mod session;
mod specs;
mod term;
mod whole;
mod writer;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use compat::Older;
pub use config::{DatabaseConfig, application_name};
pub use confirm::ConfirmSession;
pub use database::{Database, PoolUse};
pub use error::{DbError, ErrorClass};
pub use follow::{Afresh, Caught, Item, News, Tail};
pub use lease::{Claim, ClaimOutcome, EndedSessions, Head, LeaseSession, Renewed};
pub use load::Wanted;
pub use migrate::{MigrationError, MigrationOptions};
pub use notices::{Notice, Notices};
pub use pgfleet_domain::leadership::{Began, Seen};
pub use records::{
    Compat, ComputeRecord, Ended, JournalEntry, JournalKind, Labels, LoadedState, SpecRecord, TermRecord,
};
pub use rehearse::Rehearsed;
pub use release::{Migration, Release};
pub use retention::{Keep, Kept, Pruned};
pub use rollout::{RolloutRecord, TargetRecord};
pub use term::LeaderTerm;
pub use writer::{
    Action, Asker, Batch, BatchHook, Change, Committed, Hand, NewRollout, NewSpec, NewTarget, RolloutChange,
    WriteError, Writer, WriterHooks, WriterTask,
};

/// Number of the schema that this build reads and writes, see [`Release`]; compared with [`Compat`].
pub const SCHEMA_NUMBER: i32 = 2;

/// Channel on which a claim or release is told; the payload is the term.
pub const LEADER_CHANNEL: &str = "pgfleet_leader";

/// Channel on which a committed batch is told; the payload is its last `change_seq`.
pub const CHANGE_CHANNEL: &str = "pgfleet_change";

/// A point at which a test may stop the program. It is awaited inside an open transaction.
pub type Hook = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;
