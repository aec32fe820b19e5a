//! Who leads: the whole decision, as one pure function.
//!
//! Called by the controller's leadership room, which carries the actions out and feeds their results back as events, and by
//! models of it. `now` is the member's own clock (since any fixed point, counting while suspended); no decision compares
//! two machines' clocks. Safety rests on the fence in the database, never on this; this is about who tries, and when.
//!
//! ```text
//!               claim won            took over               step_down asked, SIGTERM
//! candidate ───────────────► taking_over ──────► leader ───────────────────────────► stepping_down ─► stepped_down
//!     ▲                                            │ lease not proved, fenced: lost                        │
//!     └────────────────────────────────────────────┴── a higher term, or the lease ran out ◄──────────────┘
//! ```

mod candidate;
mod holder;

use std::time::Duration;

use pgfleet_api::controller::{Candidate, ControllerStatus, LeaderRef, Role};
use pgfleet_api::{InstanceId, Term};

/// What a member is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This process.
    pub me: InstanceId,
    /// Base URL of this member's own listener.
    pub address: String,
    /// Ask the leader to step down, once.
    pub start_as_candidate: bool,
    /// Distance of two renewals, and of two readings of the row.
    pub renew: Duration,
    /// Length of this member's own leases.
    pub lease: Duration,
    /// How long before its end a lease counts as unproved.
    pub margin: Duration,
    /// How long everybody but the successor leaves a term alone after its step-down.
    pub hold: Duration,
}

/// The leader row as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Term in it.
    pub term: Term,
    /// Who claimed it.
    pub instance_id: InstanceId,
    /// Where that one listens.
    pub address: String,
    /// How often it renewed.
    pub renewals: i64,
    /// Length of its lease.
    pub lease: Duration,
    /// Whether it gave the row up.
    pub released: bool,
}

/// What the row's address says when it is asked for its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The row's instance; it holds its leadership or is about to give it up.
    Holds,
    /// The row's instance; it gave up in favour of somebody, or of anybody.
    SteppedDown {
        /// The only one that may claim at once.
        successor: Option<InstanceId>,
        /// How long the others wait.
        hold: Duration,
    },
    /// Refused, another instance, or my own listener: the row's process is dead.
    Dead,
    /// No proof of anything: only the lease decides.
    Silent,
}

/// What came back from the network, before it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status.
    Status(ControllerStatus),
    /// The port refused.
    Refused,
    /// Time-out, reset, TLS error, garbage.
    Silent,
}

/// Judges a reply against the row it was asked for: the answer table.
#[must_use]
pub fn judge(row: &Row, own_address: &str, reply: &Reply) -> Answer {
    if row.address == own_address {
        return Answer::Dead;
    }
    match reply {
        Reply::Refused => Answer::Dead,
        Reply::Silent => Answer::Silent,
        Reply::Status(status) if status.instance_id != row.instance_id => Answer::Dead,
        Reply::Status(status) => match status.role {
            Role::TakingOver | Role::Leader | Role::Suspended | Role::SteppingDown => Answer::Holds,
            Role::SteppedDown => Answer::SteppedDown {
                successor: status.successor.as_ref().map(|successor| successor.instance_id),
                hold: Duration::from_millis(status.hold_ms.unwrap_or(0)),
            },
            // It lost its term by itself, or has claimed it a moment ago: both end by the lease or by its own claim.
            Role::Candidate => Answer::Silent,
        },
    }
}

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
    /// It did not answer in time.
    Failed,
}

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The row was read.
    RowRead(Option<Row>),
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
    /// A renewal or a write found that the row is not ours.
    Fenced,
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
    /// Ask the row's address for its status.
    AskStatus(Row),
    /// Ask the leader to step down.
    AskStepDown(LeaderRef),
    /// Try a claim.
    Claim(Claim),
    /// Migrate, load, start the leader's tasks.
    TakeOver(Term),
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

/// Where a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Waits and watches.
    Candidate(Waiting),
    /// Claimed; not serving yet.
    TakingOver {
        /// Own term.
        term: Term,
        /// Own clock before the last renewal that succeeded was sent.
        proved_at: Duration,
    },
    /// Leads.
    Leader {
        /// Own term.
        term: Term,
        /// As above.
        proved_at: Duration,
    },
    /// Draining.
    SteppingDown {
        /// The term that ends.
        term: Term,
        /// Why.
        why: Why,
    },
    /// Gave up; watches for the successor.
    SteppedDown {
        /// The term that ended.
        term: Term,
        /// For whom.
        successor: Option<Candidate>,
    },
    /// The process ends.
    Gone,
}

/// What a candidate is busy with; it does one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing.
    Idle,
    /// Its request to step down is under way.
    Asking,
    /// Its claim is under way.
    Claiming,
}

/// Why a leadership ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Asked to, for this one.
    Asked(Option<Candidate>),
    /// The process was asked to end.
    Terminating,
    /// The lease could not be proved, or the database says that somebody else leads.
    Lost,
}

/// How long the row has stood still, on this member's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The row.
    pub row: Row,
    /// Since when (term, renewals) are unchanged.
    pub since: Duration,
    /// Since when its owner is known to have stepped down.
    pub stepped_down: Option<Duration>,
}

/// Everything a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Told at the start.
    pub config: Config,
    /// Where this member stands.
    pub phase: Phase,
    /// The row as last read.
    pub watch: Option<Watch>,
    /// Highest term ever seen.
    pub highest: Term,
    /// Whether this process may still ask for a step-down.
    pub may_ask: bool,
    /// When the row is read next.
    pub next_read: Duration,
}

impl State {
    /// A member that has just started.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let may_ask = config.start_as_candidate;
        Self {
            config,
            phase: Phase::Candidate(Waiting::Idle),
            watch: None,
            highest: Term(0),
            may_ask,
            next_read: Duration::ZERO,
        }
    }

    /// The role this member shows.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.phase {
            Phase::Candidate(_) => Role::Candidate,
            Phase::TakingOver { .. } => Role::TakingOver,
            Phase::Leader { .. } => Role::Leader,
            Phase::SteppingDown { .. } => Role::SteppingDown,
            Phase::SteppedDown { .. } | Phase::Gone => Role::SteppedDown,
        }
    }

    /// The term this member holds and has to renew; `None` once it gives up.
    #[must_use]
    pub fn held_term(&self) -> Option<Term> {
        match &self.phase {
            Phase::TakingOver { term, .. } | Phase::Leader { term, .. } => Some(*term),
            Phase::Candidate(_) | Phase::SteppingDown { .. } | Phase::SteppedDown { .. } | Phase::Gone => None,
        }
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<LeaderRef> {
        if let Some(term) = self.held_term() {
            return Some(LeaderRef { instance_id: self.config.me, term, address: self.config.address.clone() });
        }
        let row = &self.watch.as_ref()?.row;
        let known = !row.released && row.instance_id != self.config.me;
        known.then(|| LeaderRef { instance_id: row.instance_id, term: row.term, address: row.address.clone() })
    }
}

/// The decision: where the member stands after `event` at `now`, and what it has to do.
#[must_use]
pub fn decide(state: &State, event: Event, now: Duration) -> (State, Vec<Action>) {
    let mut next = state.clone();
    if let Event::RowRead(row) = &event {
        next.note_row(row.as_ref(), now);
    }
    let actions = match &state.phase {
        Phase::Candidate(waiting) => candidate::decide(&mut next, *waiting, event, now),
        Phase::TakingOver { term, proved_at } => holder::taking_over(&mut next, *term, *proved_at, event, now),
        Phase::Leader { term, proved_at } => holder::leader(&mut next, *term, *proved_at, event, now),
        Phase::SteppingDown { term, why } => holder::stepping_down(&mut next, *term, why.clone(), event),
        Phase::SteppedDown { term, .. } => holder::stepped_down(&mut next, *term, event, now),
        Phase::Gone => Vec::new(),
    };
    (next, actions)
}

impl State {
    /// Every member judges the lease by its own clock: it counts from when this member first read the value.
    fn note_row(&mut self, row: Option<&Row>, now: Duration) {
        self.next_read = now + self.config.renew;
        let Some(row) = row else {
            self.watch = None;
            return;
        };
        self.highest = self.highest.max(row.term);
        match &mut self.watch {
            Some(watch) if watch.row.term == row.term && watch.row.renewals == row.renewals => watch.row = row.clone(),
            Some(watch) if watch.row.term == row.term => {
                *watch = Watch { row: row.clone(), since: now, stepped_down: watch.stepped_down }
            }
            _ => self.watch = Some(Watch { row: row.clone(), since: now, stepped_down: None }),
        }
    }

    fn read_when_due(&mut self, now: Duration) -> Vec<Action> {
        if now < self.next_read {
            return Vec::new();
        }
        self.next_read = now + self.config.renew;
        vec![Action::ReadRow]
    }

    fn lease_ran_out(&self, now: Duration) -> bool {
        self.watch.as_ref().is_some_and(|watch| now.saturating_sub(watch.since) >= watch.row.lease)
    }
}

#[cfg(test)]
mod tests;
