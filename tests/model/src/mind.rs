//! One member's decision state in a finite form, and back.
//!
//! A [`State`] holds instants of its own clock. Only their distance from now matters, and only up to the limit at which a
//! decision changes: that distance, in whole ticks, is kept. `next_read` is not kept: a member of the model may read the
//! row at any moment, which includes every rhythm there is. Invariant (tested): a decision on the form agrees with one on
//! the state it was made from.

use std::time::Duration;

use pgfleet_api::controller::{Candidate, Role};
use pgfleet_api::{InstanceId, Term};
use pgfleet_domain::leadership::{self as domain, Config, Failed, Phase, Row, State, Waiting, Watch, Wish};

/// One step of a clock.
pub const TICK: Duration = Duration::from_secs(1);
/// Now, on every member's clock: all that is remembered lies at most a few ticks before it.
pub const NOW: Duration = Duration::from_secs(100);
/// The only migration of the model.
pub const TARGET: &str = "migration";

/// Ages stop here: a lease that is not proved any more.
pub const PROVED: u8 = 1;
/// A lease that has run out.
const LEASE: u8 = 2;
/// A row that was not read for so long that a renewal may have been missed.
const UNSEEN: u8 = 2;
/// Hold and revert, in whole ticks.
const STEPPED_DOWN: u8 = 1;

/// A process: where it runs, and which one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inst {
    /// The member; also its address.
    pub slot: u8,
    /// Which process of it; higher is later.
    pub life: u8,
}

/// The leader row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaderRow {
    /// Its term.
    pub term: u8,
    /// Who claimed it.
    pub owner: Inst,
    /// How often it was renewed.
    pub renewals: u8,
    /// Whether it was given up.
    pub released: bool,
}

/// [`Phase`] in the finite form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stand {
    /// A candidate that does nothing.
    Idle,
    /// A candidate whose request to step down is under way.
    Asking,
    /// A candidate whose claim is under way.
    Claiming,
    /// Claimed.
    TakingOver {
        /// Own term.
        term: u8,
        /// Age of the proof.
        proved: u8,
    },
    /// Leads.
    Leader {
        /// Own term.
        term: u8,
        /// Age of the proof.
        proved: u8,
    },
    /// Leads without a proof.
    Suspended {
        /// Own term.
        term: u8,
        /// Age of the proof.
        proved: u8,
    },
    /// Drains.
    SteppingDown {
        /// The term that ends.
        term: u8,
        /// Why.
        why: Why,
    },
    /// Gave up.
    SteppedDown {
        /// The term that ended.
        term: u8,
        /// For whom.
        successor: Option<Inst>,
        /// How long ago.
        since: u8,
    },
    /// Ends.
    Gone,
}

/// Why a leadership ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// Asked to, for this one.
    Asked(Option<Inst>),
    /// The process was told to end.
    Terminating,
    /// The database says so.
    Lost,
    /// An agent has seen a later term than the database.
    Outbid,
}

/// [`Watch`] in the finite form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sight {
    /// The row as read.
    pub row: LeaderRow,
    /// For how long it stood still.
    pub since: u8,
    /// How long ago it was read.
    pub read: u8,
    /// For how long its owner is known to have stepped down.
    pub stepped_down: Option<u8>,
}

/// [`Wish`] in the finite form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Desire {
    /// Also for a migration that failed.
    pub force: bool,
    /// Ticks that are left; none: it does not lapse.
    pub left: Option<u8>,
    /// The term that was asked.
    pub asked: Option<u8>,
}

/// [`State`] in the finite form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mind {
    /// This process.
    pub me: Inst,
    /// Where it stands.
    pub stand: Stand,
    /// The row as it knows it.
    pub sight: Option<Sight>,
    /// Highest term it read.
    pub highest: u8,
    /// Whether it wants to lead although somebody does.
    pub wish: Option<Desire>,
    /// Whether it would have to migrate.
    pub pending: bool,
    /// Ticks for which it refuses a migration that failed.
    pub refuses: u8,
    /// Whether a reading failed since the last one.
    pub blind: bool,
    /// For how long it knows that an agent has seen a later term.
    pub outbid: Option<u8>,
}

/// The times of every member: revert < hold < lease, as the product demands. In ticks: lease 2, margin 1, hold 1; a
/// revert and a renewal take half a tick.
#[must_use]
pub fn config(me: Inst, start_as_candidate: bool) -> Config {
    Config {
        me: id_of(me),
        address: address_of(me.slot),
        start_as_candidate,
        renew: TICK / 2,
        lease: TICK * 2,
        margin: TICK,
        hold: TICK,
        revert: TICK / 2,
        migration_retry: TICK,
    }
}

/// The id of a process.
#[must_use]
pub fn id_of(inst: Inst) -> InstanceId {
    InstanceId(uuid::Uuid::from_u128(u128::from(inst.slot) << 8 | u128::from(inst.life)))
}

/// The process of an id that [`id_of`] made.
#[must_use]
pub fn inst_of(id: InstanceId) -> Inst {
    let [.., slot, life] = id.0.into_bytes();
    Inst { slot, life }
}

/// Where a member listens.
#[must_use]
pub fn address_of(slot: u8) -> String {
    char::from(b'a' + slot).to_string()
}

/// How long ago `then` was, in whole ticks, up to `limit`.
fn age(now: Duration, then: Duration, limit: u8) -> u8 {
    let ticks = now.saturating_sub(then).as_nanos() / TICK.as_nanos();
    u8::try_from(ticks).unwrap_or(u8::MAX).min(limit)
}

/// How many ticks are left until `then`, begun ones included.
fn left(now: Duration, then: Duration) -> u8 {
    let ticks = then.saturating_sub(now).as_nanos().div_ceil(TICK.as_nanos());
    u8::try_from(ticks).unwrap_or(u8::MAX)
}

fn ago(age: u8) -> Duration {
    NOW - TICK * u32::from(age)
}

fn ahead(left: u8) -> Duration {
    NOW + TICK * u32::from(left)
}

/// Terms of the model are small.
fn small(term: Term) -> u8 {
    u8::try_from(term.get()).unwrap_or(u8::MAX)
}

fn candidate(inst: Inst) -> Candidate {
    Candidate { instance_id: id_of(inst), address: address_of(inst.slot) }
}

impl LeaderRow {
    /// As the product reads it.
    #[must_use]
    pub fn row(&self) -> Row {
        Row {
            term: Term(i64::from(self.term)),
            instance_id: id_of(self.owner),
            address: address_of(self.owner.slot),
            renewals: i64::from(self.renewals),
            lease: TICK * 2,
            released: self.released,
        }
    }

    /// The finite form of a row that was read.
    #[must_use]
    pub fn of_row(row: &Row) -> Self {
        let renewals = u8::try_from(row.renewals).unwrap_or(u8::MAX);
        Self { term: small(row.term), owner: inst_of(row.instance_id), renewals, released: row.released }
    }
}

impl Stand {
    fn of(phase: &Phase, now: Duration) -> Self {
        let proved = |at: Duration| age(now, at, PROVED);
        match phase {
            Phase::Candidate(Waiting::Idle) => Self::Idle,
            Phase::Candidate(Waiting::Asking) => Self::Asking,
            Phase::Candidate(Waiting::Claiming) => Self::Claiming,
            Phase::TakingOver { term, proved_at } => {
                Self::TakingOver { term: small(*term), proved: proved(*proved_at) }
            }
            Phase::Leader { term, proved_at } => Self::Leader { term: small(*term), proved: proved(*proved_at) },
            Phase::Suspended { term, proved_at } => Self::Suspended { term: small(*term), proved: proved(*proved_at) },
            Phase::SteppingDown { term, why } => Self::SteppingDown {
                term: small(*term),
                why: match why {
                    domain::Why::Asked(successor) => Why::Asked(successor.as_ref().map(|who| inst_of(who.instance_id))),
                    domain::Why::Terminating => Why::Terminating,
                    domain::Why::Lost => Why::Lost,
                    domain::Why::Outbid => Why::Outbid,
                },
            },
            Phase::SteppedDown { term, successor, since } => Self::SteppedDown {
                term: small(*term),
                successor: successor.as_ref().map(|who| inst_of(who.instance_id)),
                since: age(now, *since, STEPPED_DOWN),
            },
            Phase::Gone => Self::Gone,
        }
    }

    fn phase(&self) -> Phase {
        let number = |term: u8| Term(i64::from(term));
        match *self {
            Self::Idle => Phase::Candidate(Waiting::Idle),
            Self::Asking => Phase::Candidate(Waiting::Asking),
            Self::Claiming => Phase::Candidate(Waiting::Claiming),
            Self::TakingOver { term, proved } => Phase::TakingOver { term: number(term), proved_at: ago(proved) },
            Self::Leader { term, proved } => Phase::Leader { term: number(term), proved_at: ago(proved) },
            Self::Suspended { term, proved } => Phase::Suspended { term: number(term), proved_at: ago(proved) },
            Self::SteppingDown { term, why } => Phase::SteppingDown {
                term: number(term),
                why: match why {
                    Why::Asked(successor) => domain::Why::Asked(successor.map(candidate)),
                    Why::Terminating => domain::Why::Terminating,
                    Why::Lost => domain::Why::Lost,
                    Why::Outbid => domain::Why::Outbid,
                },
            },
            Self::SteppedDown { term, successor, since } => {
                Phase::SteppedDown { term: number(term), successor: successor.map(candidate), since: ago(since) }
            }
            Self::Gone => Phase::Gone,
        }
    }
}

impl Mind {
    /// A process that has just started.
    #[must_use]
    pub fn new(me: Inst, start_as_candidate: bool, pending: bool) -> Self {
        let mut state = State::new(config(me, start_as_candidate));
        state.pending = pending.then(|| TARGET.to_owned());
        Self::of(&state, NOW)
    }

    /// The finite form of a state at `now`.
    #[must_use]
    pub fn of(state: &State, now: Duration) -> Self {
        let sight = state.watch.as_ref().map(|watch| Sight {
            row: LeaderRow::of_row(&watch.row),
            since: age(now, watch.since, LEASE),
            read: age(now, watch.read_at, UNSEEN),
            stepped_down: watch.stepped_down.map(|since| age(now, since, STEPPED_DOWN)),
        });
        let wish = state.wish.as_ref().map(|wish| Desire {
            force: wish.force,
            left: wish.until.map(|until| left(now, until)),
            asked: wish.asked.map(small),
        });
        let refuses = state.failed.iter().map(|failed| left(now, failed.until)).max().unwrap_or(0);
        let me = inst_of(state.config.me);
        let (stand, highest) = (Stand::of(&state.phase, now), small(state.highest));
        let outbid = state.outbid.map(|since| age(now, since, PROVED));
        Self { me, stand, sight, highest, wish, pending: state.pending.is_some(), refuses, blind: state.blind, outbid }
    }

    /// A state of this form, at [`NOW`].
    #[must_use]
    pub fn state(&self) -> State {
        let watch = self.sight.map(|sight| Watch {
            row: sight.row.row(),
            since: ago(sight.since),
            read_at: ago(sight.read),
            stepped_down: sight.stepped_down.map(ago),
        });
        let wish = self.wish.map(|wish| Wish {
            force: wish.force,
            until: wish.left.map(ahead),
            asked: wish.asked.map(|term| Term(i64::from(term))),
        });
        let failed = Failed { target: TARGET.to_owned(), until: ahead(self.refuses) };
        State {
            phase: self.stand.phase(),
            watch,
            highest: Term(i64::from(self.highest)),
            wish,
            pending: self.pending.then(|| TARGET.to_owned()),
            failed: if self.refuses > 0 { vec![failed] } else { Vec::new() },
            blind: self.blind,
            outbid: self.outbid.map(ago),
            next_read: NOW,
            seed: 0,
            ..State::new(config(self.me, false))
        }
    }

    /// The same, one tick later.
    #[must_use]
    pub fn older(&self) -> Self {
        Self::of(&self.state(), NOW + TICK)
    }

    /// The role it shows.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.stand {
            Stand::Idle | Stand::Asking | Stand::Claiming => Role::Candidate,
            Stand::TakingOver { .. } => Role::TakingOver,
            Stand::Leader { .. } => Role::Leader,
            Stand::Suspended { .. } => Role::Suspended,
            Stand::SteppingDown { .. } => Role::SteppingDown,
            Stand::SteppedDown { .. } | Stand::Gone => Role::SteppedDown,
        }
    }

    /// The term that it holds, gives up or gave up.
    #[must_use]
    pub fn term(&self) -> Option<u8> {
        match self.stand {
            Stand::TakingOver { term, .. }
            | Stand::Leader { term, .. }
            | Stand::Suspended { term, .. }
            | Stand::SteppingDown { term, .. }
            | Stand::SteppedDown { term, .. } => Some(term),
            Stand::Idle | Stand::Asking | Stand::Claiming | Stand::Gone => None,
        }
    }

    /// The term that it has to renew.
    #[must_use]
    pub fn held(&self) -> Option<u8> {
        match self.stand {
            Stand::TakingOver { term, .. } | Stand::Leader { term, .. } | Stand::Suspended { term, .. } => Some(term),
            Stand::SteppingDown { .. }
            | Stand::SteppedDown { .. }
            | Stand::Idle
            | Stand::Asking
            | Stand::Claiming
            | Stand::Gone => None,
        }
    }

    /// Every process that it names, its own included.
    pub fn each_inst(&mut self, f: &mut impl FnMut(&mut Inst)) {
        f(&mut self.me);
        if let Some(sight) = &mut self.sight {
            f(&mut sight.row.owner);
        }
        if let Stand::SteppingDown { why: Why::Asked(Some(inst)), .. }
        | Stand::SteppedDown { successor: Some(inst), .. } = &mut self.stand
        {
            f(inst);
        }
    }

    /// Every term that it names.
    pub fn each_term(&mut self, f: &mut impl FnMut(&mut u8)) {
        f(&mut self.highest);
        if let Some(sight) = &mut self.sight {
            f(&mut sight.row.term);
        }
        if let Some(Desire { asked: Some(term), .. }) = &mut self.wish {
            f(term);
        }
        match &mut self.stand {
            Stand::TakingOver { term, .. }
            | Stand::Leader { term, .. }
            | Stand::Suspended { term, .. }
            | Stand::SteppingDown { term, .. }
            | Stand::SteppedDown { term, .. } => f(term),
            Stand::Idle | Stand::Asking | Stand::Claiming | Stand::Gone => {}
        }
    }
}
