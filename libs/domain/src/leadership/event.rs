//! What goes into a decision and what comes out of it.

use std::time::Duration;

use pgfleet_api::controller::{Candidate, LeaderRef};
use pgfleet_api::{InstanceId, Term};

use super::{Answer, Row};

/// How a leadership began; kept in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Began {
    /// Nobody had ever led.
    First,
    /// The predecessor stepped down for this one.
    StepDown,
    /// The predecessor had released the row.
    Released,
    /// The predecessor's process was dead.
    Crash,
    /// The predecessor's lease had run out.
    Lease,
    /// The same process claims again what it had given up or lost.
    Revert,
}

impl Began {
    /// The word in the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::StepDown => "step_down",
            Self::Released => "released",
            Self::Crash => "crash",
            Self::Lease => "lease",
            Self::Revert => "revert",
        }
    }
}

/// The row that a claim replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its term.
    pub term: Term,
    /// Its owner.
    pub instance_id: InstanceId,
    /// Without consent: the claim holds only while the row stands here.
    pub renewals: Option<i64>,
}

/// A claim to be tried: a compare-and-swap on the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The row as it was seen; `None`: there was none.
    pub seen: Option<Seen>,
    /// The new term is above this one too.
    pub floor: Term,
    /// For the history.
    pub how: Began,
    /// End all database sessions of the old owner first: it did not consent.
    pub end_sessions: bool,
}

/// A term of the history, as far as a decision needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastTerm<'a> {
    /// Its number.
    pub term: Term,
    /// Whether a failed migration ended it.
    pub migration_failed: bool,
    /// Newest migration of its leader.
    pub target: &'a str,
}

/// What the terms aimed at that ended by a failed migration just before `term`, without another one in between.
/// `newest_first` is the history.
#[must_use]
pub fn failed_targets<'a>(term: Term, newest_first: impl IntoIterator<Item = PastTerm<'a>>) -> Vec<String> {
    let before = newest_first.into_iter().skip_while(|past| past.term >= term);
    before.take_while(|past| past.migration_failed).map(|past| past.target.to_owned()).collect()
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimEnd {
    /// The row is ours under this term.
    Won {
        /// The new term.
        term: Term,
        /// Own clock before the claim was sent; the lease counts from here.
        sent_at: Duration,
    },
    /// Somebody was faster.
    Lost,
    /// The database did not answer; it is tried again by what the row then says.
    Failed,
}

/// How the request to step down ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskEnd {
    /// It did.
    Consented,
    /// It leads no longer, or never did in that term.
    NotThatLeader,
    /// It does not accept our token.
    Unauthorized,
    /// It stays: this member's migration failed a short while ago.
    MigrationFailedBefore,
    /// It did not answer in time.
    Failed,
}

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// Something may have happened to the leader: a stream to it ended, or the database told of a claim or release.
    Woken,
    /// A hand-over is under way somewhere.
    HandOverSeen,
    /// The row was read.
    RowRead(Option<Row>),
    /// The row could not be read.
    ReadFailed,
    /// The history was read.
    HistoryRead {
        /// Its newest term.
        newest: Term,
        /// What ended the terms at its end by a failed migration, see [`failed_targets`]; for a leader those before its own.
        failed: Vec<String>,
    },
    /// Whether this program may lead on the schema there is.
    MayLead(bool),
    /// Newest migration that this program would have to run.
    Pending(Option<String>),
    /// An operator asks this member to take over.
    TakeOverAsked {
        /// Also if its migration failed a short while ago.
        force: bool,
        /// When the wish lapses, on the own clock.
        until: Duration,
    },
    /// Another member named a leader.
    Heard(LeaderRef),
    /// The row's address was asked for its status.
    Answered {
        /// The row it was asked for.
        term: Term,
        /// What it said.
        answer: Answer,
    },
    /// The request to step down ended.
    AskEnded(AskEnd),
    /// A claim ended.
    ClaimEnded(ClaimEnd),
    /// The lease was renewed by a request sent at `sent_at`.
    Renewed {
        /// Own clock before it was sent.
        sent_at: Duration,
    },
    /// A renewal or a write found that the row is not ours, or that the database has lost what this leadership wrote.
    Fenced,
    /// An agent has heard of this later leadership and refuses ours: either the row is not ours any more, or the database
    /// has lost that term.
    Outbid {
        /// The highest term that the agent has seen.
        term: Term,
    },
    /// Migrated, loaded, tasks started.
    TookOver,
    /// A migration or the load failed.
    TakeOverFailed,
    /// Somebody asks this member to step down.
    StepDownAsked {
        /// Who wants to lead instead.
        successor: Option<Candidate>,
    },
    /// Everything this leadership had started is joined and flushed.
    Drained,
    /// SIGTERM.
    Terminate,
}

/// What the room has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the leader row.
    ReadRow,
    /// Read the history of leadership.
    ReadHistory,
    /// Ask the row's address for its status.
    AskStatus(Row),
    /// Ask the leader to step down.
    AskStepDown {
        /// Whom.
        leader: LeaderRef,
        /// Also for a migration that failed a short while ago.
        force: bool,
    },
    /// Try a claim.
    Claim(Claim),
    /// Migrate, load, start the leader's tasks.
    TakeOver(Term),
    /// Renew the lease at once: the answer says whether the row is still ours.
    Renew,
    /// Cancel and join everything this leadership started, flush if it was not lost, then report `Drained`.
    StopLeading {
        /// Whether the observed state is flushed: only by a leadership that is not lost.
        flush: bool,
    },
    /// Mark the row released; the history keeps why.
    Release(Term, Ending),
    /// End the process.
    Exit(Ending),
}

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Done,
    /// Migrating or loading failed after the claim.
    TakeOverFailed,
    /// The leader refuses this member's token.
    Unauthorized,
}
