//! Who leads: the whole decision, as one pure function.
//!
//! Called by the controller's leadership room, which carries the actions out and feeds their results back as events, and by
//! models of it. `now` is the member's own clock (since any fixed point, counting while suspended); no decision compares
//! two machines' clocks. Safety rests on the fence in the database, never on this; this is about who tries, and when.
//!
//! ```text
//!               claim won            took over               step_down asked, SIGTERM
//! candidate ───────────────► taking_over ──────► leader ───────────────────────────► stepping_down ─► stepped_down
//!     ▲                             lease proved ▲  │ lease not proved               ▲      │              │
//!     │                                         suspended ───── the same, fenced ────┘      │              │
//!     └──── fenced: lost ───────────────────────────────────────────────────────────────────┴──────────────┘
//!                                                                   a higher term; or no one came: claim again
//! ```

#![deny(clippy::wildcard_enum_match_arm)]

mod answer;
mod candidate;
mod event;
mod holder;
mod outbid;

use std::time::Duration;

use pgfleet_api::controller::{Candidate, LeaderRef, Role};
use pgfleet_api::{InstanceId, Term};

pub use answer::{Answer, Reply, Row, judge};
pub use event::{Action, AskEnd, Began, Claim, ClaimEnd, Ending, Event, PastTerm, Seen, failed_targets};
pub use outbid::{Jump, MAX_TERM_JUMP, jump};

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
    /// How long a member that stepped down waits for a successor before it claims again.
    pub revert: Duration,
    /// How long a leader refuses to step down for a migration that failed just before its term.
    pub migration_retry: Duration,
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
    /// Leads and cannot prove its lease: executes nothing until a renewal succeeds. Keeps its term and its tasks.
    Suspended {
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
        /// Own clock at the end of the sequence; it claims again when nobody came for a while.
        since: Duration,
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
    /// The database says that somebody else leads.
    Lost,
    /// An agent has seen a later term that the database does not know: it is claimed over.
    Outbid,
}

/// How long the row has stood still, on this member's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The row.
    pub row: Row,
    /// Since when (term, renewals) are unchanged, as far as this member could see.
    pub since: Duration,
    /// When the row was last read.
    pub read_at: Duration,
    /// Since when its owner is known to have stepped down.
    pub stepped_down: Option<Duration>,
}

/// A wish to lead although somebody does: the leader is asked to step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Also for a migration that failed a short while ago.
    pub force: bool,
    /// When it lapses, on the own clock; `None`: the wish of the start, which is asked once whenever there is a leader.
    pub until: Option<Duration>,
    /// The term whose leader was asked and is not that leader; another one is asked again.
    pub asked: Option<Term>,
}

/// A migration that ended a term, and until when nobody steps down for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Newest migration of the leader that failed.
    pub target: String,
    /// On the own clock.
    pub until: Duration,
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
    /// Whether this process still wants to ask for a step-down.
    pub wish: Option<Wish>,
    /// Whether this program may lead on the schema there is.
    pub can_lead: bool,
    /// Newest migration that this program would have to run; `None`: nothing is pending.
    pub pending: Option<String>,
    /// Since when, on the own clock, an agent is known to have seen a term above the own one; the first renewal that is sent
    /// after it tells what that means.
    pub outbid: Option<Duration>,
    /// What failed just before the own term.
    pub failed: Vec<Failed>,
    /// A reading of the row failed since the last one that did not.
    pub blind: bool,
    /// When the row is read next.
    pub next_read: Duration,
    /// Where the jitter comes from: chance is data, too.
    pub seed: u64,
}

impl State {
    /// A member that has just started.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let wish = config.start_as_candidate.then_some(Wish { force: false, until: None, asked: None });
        // An instance id is random, so members do not jitter in step.
        let seed = config.me.0.as_u64_pair().1;
        Self {
            config,
            phase: Phase::Candidate(Waiting::Idle),
            watch: None,
            highest: Term(0),
            heard: None,
            wish,
            can_lead: true,
            pending: None,
            outbid: None,
            failed: Vec::new(),
            blind: false,
            next_read: Duration::ZERO,
            seed,
        }
    }

    /// The role this member shows.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.phase {
            Phase::Candidate(_) => Role::Candidate,
            Phase::TakingOver { .. } => Role::TakingOver,
            Phase::Leader { .. } => Role::Leader,
            Phase::Suspended { .. } => Role::Suspended,
            Phase::SteppingDown { .. } => Role::SteppingDown,
            Phase::SteppedDown { .. } | Phase::Gone => Role::SteppedDown,
        }
    }

    /// The term this member holds and has to renew; `None` once it gives up.
    #[must_use]
    pub fn held_term(&self) -> Option<Term> {
        match &self.phase {
            Phase::TakingOver { term, .. } | Phase::Leader { term, .. } | Phase::Suspended { term, .. } => Some(*term),
            Phase::Candidate(_) | Phase::SteppingDown { .. } | Phase::SteppedDown { .. } | Phase::Gone => None,
        }
    }

    /// Until when, on its own clock, this member may act for the term it holds. A process that was frozen past it acts for
    /// nobody, even before it has decided anything about that.
    #[must_use]
    pub fn proved_until(&self) -> Option<Duration> {
        match &self.phase {
            Phase::TakingOver { proved_at, .. }
            | Phase::Leader { proved_at, .. }
            | Phase::Suspended { proved_at, .. } => {
                Some(*proved_at + self.config.lease.saturating_sub(self.config.margin))
            }
            Phase::Candidate(_) | Phase::SteppingDown { .. } | Phase::SteppedDown { .. } | Phase::Gone => None,
        }
    }

    /// Whether this leader does not step down for a candidate that would have to migrate to `target`: that failed a short
    /// while ago, and nobody insists.
    #[must_use]
    pub fn refuses(&self, target: Option<&str>, force: bool, now: Duration) -> bool {
        !force && self.failed.iter().any(|failed| target == Some(failed.target.as_str()) && now < failed.until)
    }

    /// What the row, as it was just read, says of lost terms: the highest that this member ever saw, if the row is below it.
    /// A row only ever grows, so the database has lost the claims in between.
    #[must_use]
    pub fn lost_term(&self, row: Option<&Row>) -> Option<Term> {
        let found = row.map_or(Term(0), |row| row.term);
        (found < self.highest && self.watch.as_ref().is_none_or(|watch| watch.row.term != found))
            .then_some(self.highest)
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
        Event::ReadFailed => {
            next.blind = true;
            return (next, Vec::new());
        }
        Event::MayLead(may) => {
            next.can_lead = may;
            return (next, Vec::new());
        }
        Event::Pending(target) => {
            next.pending = target;
            return (next, Vec::new());
        }
        Event::HandOverSeen => {
            next.look_closely(now);
            return (next, Vec::new());
        }
        Event::Tick
        | Event::Woken
        | Event::TakeOverAsked { .. }
        | Event::HistoryRead { .. }
        | Event::Answered { .. }
        | Event::AskEnded(_)
        | Event::ClaimEnded(_)
        | Event::Renewed { .. }
        | Event::Fenced
        | Event::Outbid { .. }
        | Event::TookOver
        | Event::TakeOverFailed
        | Event::StepDownAsked { .. }
        | Event::Drained
        | Event::Terminate => {}
    }
    let actions = match &state.phase {
        Phase::Candidate(waiting) => candidate::decide(&mut next, *waiting, event, now),
        Phase::TakingOver { term, .. } => holder::holding(&mut next, *term, false, event, now),
        Phase::Leader { term, .. } | Phase::Suspended { term, .. } => {
            holder::holding(&mut next, *term, true, event, now)
        }
        Phase::SteppingDown { term, why } => holder::stepping_down(&mut next, *term, why.clone(), event, now),
        Phase::SteppedDown { term, since, .. } => holder::stepped_down(&mut next, *term, *since, event, now),
        Phase::Gone => Vec::new(),
    };
    (next, actions)
}

impl State {
    /// Every member judges the lease by its own clock: it counts from when this member first read the value. A member that
    /// could not read for a while could not have seen a renewal either, so it counts anew from its first reading. Safety
    /// does not need this; it leaves the row to the leader after a database was away from all of them.
    fn note_row(&mut self, row: Option<&Row>, now: Duration) {
        self.next_read = now + self.config.renew;
        let blind = std::mem::take(&mut self.blind);
        let Some(row) = row else {
            self.watch = None;
            return;
        };
        if row.term < self.highest {
            // The database has lost terms: whoever led in one of them is told so by it.
            self.heard = None;
        }
        self.highest = self.highest.max(row.term);
        let (since, stepped_down) = match &self.watch {
            Some(watch) if watch.row.term == row.term => {
                let unseen = (self.config.renew * 2).max(row.lease / 3);
                let saw_all = !blind && now.saturating_sub(watch.read_at) <= unseen;
                let still = watch.row.renewals == row.renewals && watch.row.released == row.released;
                (if still && saw_all { watch.since } else { now }, watch.stepped_down)
            }
            _ => (now, None),
        };
        self.watch = Some(Watch { row: row.clone(), since, read_at: now, stepped_down });
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

    /// Somebody asks this member to take over.
    fn note_wish(&mut self, force: bool, until: Duration, asked: Option<Term>) {
        self.wish = Some(Wish { force, until: Some(until), asked });
    }

    /// The leader lives: members that were woken by the same thing do not look again in step.
    fn back_off(&mut self, now: Duration) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The upper bits are the random ones.
        let percent = u32::try_from((self.seed >> 33) % 50).unwrap_or(0);
        self.next_read = now + self.config.renew * (75 + percent) / 100;
    }

    fn lease_ran_out(&self, now: Duration) -> bool {
        self.watch.as_ref().is_some_and(|watch| now.saturating_sub(watch.since) >= watch.row.lease)
    }
}

#[cfg(test)]
mod tests;
