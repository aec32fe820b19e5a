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

#![deny(clippy::wildcard_enum_match_arm)]

mod answer;
mod candidate;
mod event;
mod holder;

use std::time::Duration;

use pgfleet_api::controller::{Candidate, LeaderRef, Role};
use pgfleet_api::{InstanceId, Term};

pub use answer::{Answer, Reply, Row, judge};
pub use event::{Action, AskEnd, Began, Claim, ClaimEnd, Ending, Event, Seen};

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
    /// The leader of the highest term that another member named, until the row says as much.
    pub heard: Option<LeaderRef>,
    /// Whether this process may still ask for a step-down.
    pub may_ask: bool,
    /// Whether this program may lead on the schema there is.
    pub can_lead: bool,
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
            heard: None,
            may_ask,
            can_lead: true,
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

    /// Until when, on its own clock, this member may act for the term it holds. A process that was frozen past it acts for
    /// nobody, even before it has decided anything about that.
    #[must_use]
    pub fn proved_until(&self) -> Option<Duration> {
        match &self.phase {
            Phase::TakingOver { proved_at, .. } | Phase::Leader { proved_at, .. } => {
                Some(*proved_at + self.config.lease.saturating_sub(self.config.margin))
            }
            Phase::Candidate(_) | Phase::SteppingDown { .. } | Phase::SteppedDown { .. } | Phase::Gone => None,
        }
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<LeaderRef> {
        if let Some(term) = self.held_term() {
            return Some(LeaderRef { instance_id: self.config.me, term, address: self.config.address.clone() });
        }
        let read = self.watch.as_ref().map(|watch| &watch.row);
        if let Some(heard) = self.heard.as_ref().filter(|heard| read.is_none_or(|row| heard.term > row.term)) {
            return Some(heard.clone());
        }
        let row = read.filter(|row| !row.released && row.instance_id != self.config.me)?;
        Some(LeaderRef { instance_id: row.instance_id, term: row.term, address: row.address.clone() })
    }
}

/// The decision: where the member stands after `event` at `now`, and what it has to do.
#[must_use]
pub fn decide(state: &State, event: Event, now: Duration) -> (State, Vec<Action>) {
    let mut next = state.clone();
    match event {
        Event::RowRead(ref row) => next.note_row(row.as_ref(), now),
        Event::Heard(leader) => {
            next.note_heard(leader);
            return (next, Vec::new());
        }
        Event::MayLead(may) => {
            next.can_lead = may;
            return (next, Vec::new());
        }
        Event::Tick
        | Event::Answered { .. }
        | Event::AskEnded(_)
        | Event::ClaimEnded(_)
        | Event::Renewed { .. }
        | Event::Fenced
        | Event::TookOver
        | Event::TakeOverFailed
        | Event::StepDownAsked { .. }
        | Event::Drained
        | Event::Terminate => {}
    }
    let actions = match &state.phase {
        Phase::Candidate(waiting) => candidate::decide(&mut next, *waiting, event, now),
        Phase::TakingOver { term, .. } => holder::holding(&mut next, *term, false, event, now),
        Phase::Leader { term, .. } => holder::holding(&mut next, *term, true, event, now),
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

    /// What others say only shows clients the way; it decides nothing, and it does not raise the floor of a claim.
    fn note_heard(&mut self, leader: LeaderRef) {
        let newer = self.heard.as_ref().is_none_or(|known| leader.term > known.term);
        if newer && leader.term > self.highest && leader.instance_id != self.config.me {
            self.heard = Some(leader);
        }
    }

    /// A hand-over is under way: whoever knows the new leader a moment earlier sends its clients there a moment earlier.
    fn look_closely(&mut self, now: Duration) {
        self.next_read = self.next_read.min(now + self.config.renew / 10);
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
