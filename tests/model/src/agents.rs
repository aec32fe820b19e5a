//! Specs, pushes and one agent with its ledger; and a database that loses what it committed.
//!
//! A generation is written by each committed write; a leader pushes the newest one that it knows, under its own term. The
//! agent runs [`admit`]. What it heard and did is kept beside the ledger, so that a ledger that forgets is seen.

use pgfleet_api::{ClusterId, ComputeId, Fence, Generation, SpecHash, Term};
use pgfleet_domain::fence::{LedgerRecord, Refusal, Verdict, admit};

use crate::mind::{Inst, LeaderRow, Stand};
use crate::scene::{Breach, Mutant, Scene};
use crate::world::World;

/// The fleet of the model; another number is another fleet.
const OURS: u8 = 0;
/// The other one.
const THEIRS: u8 = 1;
/// So many pushes fit at most.
pub const PUSHES: usize = 2;

/// A generation and what it says, which differs where a generation was given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Spec {
    /// Its number.
    pub generation: u8,
    /// 0 before commits were lost, 1 afterwards.
    pub content: u8,
}

/// A push under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Push {
    /// Which fleet.
    pub fleet: u8,
    /// Who hears the answer, if it is one of ours.
    pub by: Option<Inst>,
    /// Under which term.
    pub term: u8,
    /// What.
    pub spec: Spec,
}

/// What the database held at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Saved {
    row: Option<LeaderRow>,
    gave_up: bool,
    failed: [bool; 2],
    spec: Spec,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Agents {
    /// Newest spec in the database.
    pub spec: Spec,
    /// Whether commits were lost: what is written from then on is other content.
    pub lost: bool,
    /// What the database goes back to.
    pub saved: Option<Saved>,
    /// Under way.
    pub pushes: [Option<Push>; PUSHES],
    /// The ledger: term, generation, content.
    pub ledger: (u8, u8, u8),
    /// Highest term that the agent heard of from its own fleet.
    pub heard: u8,
    /// The generation that it acted on last.
    pub acted: u8,
}

impl Agents {
    /// Every process that it names.
    pub fn each_inst(&mut self, f: &mut impl FnMut(&mut Inst)) {
        if let Some(Saved { row: Some(row), .. }) = &mut self.saved {
            f(&mut row.owner);
        }
        for by in self.pushes.iter_mut().flatten().filter_map(|push| push.by.as_mut()) {
            f(by);
        }
    }

    /// Every term that it names.
    pub fn each_term(&mut self, f: &mut impl FnMut(&mut u8)) {
        if let Some(Saved { row: Some(row), .. }) = &mut self.saved {
            f(&mut row.term);
        }
        for push in self.pushes.iter_mut().flatten() {
            f(&mut push.term);
        }
        f(&mut self.ledger.0);
        f(&mut self.heard);
    }

    /// Every generation that it names.
    pub fn each_generation(&mut self, f: &mut impl FnMut(&mut u8)) {
        f(&mut self.spec.generation);
        if let Some(saved) = &mut self.saved {
            f(&mut saved.spec.generation);
        }
        for push in self.pushes.iter_mut().flatten() {
            f(&mut push.spec.generation);
        }
        f(&mut self.ledger.1);
        f(&mut self.acted);
    }

    /// Drops what makes no difference: the order of what is under way.
    pub fn forget(&mut self) {
        self.pushes.sort_unstable_by(|one, other| other.cmp(one));
        if let Some(Saved { row: Some(row), .. }) = &mut self.saved {
            // Whatever the members remember of it, it has not been renewed as they think.
            row.renewals = 0;
        }
    }
}

impl World {
    /// A write commits a new spec.
    pub fn new_generation(&mut self, scene: &Scene) {
        if scene.pushes > 0 {
            let agents = &mut self.agents;
            agents.spec = Spec { generation: agents.spec.generation + 1, content: u8::from(agents.lost) };
        }
    }

    /// The leader sends what it knows. Whether it still leads is not asked: a call may hang for long.
    pub fn push(&mut self, slot: u8, scene: &Scene) -> bool {
        let member = self.member(slot);
        let Some(mind) = &member.mind else { return false };
        let (Stand::Leader { term, .. } | Stand::Suspended { term, .. }) = mind.stand else { return false };
        self.send(Push { fleet: OURS, by: Some(mind.me), term, spec: member.knows }, scene);
        true
    }

    /// Another fleet's leader takes the agent for one of its own, with higher numbers.
    pub fn push_foreign(&mut self, scene: &Scene) -> bool {
        let term = self.row.map_or(0, |row| row.term).max(self.agents.ledger.0) + 1;
        let generation = self.agents.spec.generation.max(self.agents.ledger.1) + 1;
        self.send(Push { fleet: THEIRS, by: None, term, spec: Spec { generation, content: 0 } }, scene);
        true
    }

    /// Where no more fit, the oldest is lost.
    fn send(&mut self, push: Push, scene: &Scene) {
        let places = &mut self.agents.pushes[..usize::from(scene.pushes)];
        let free = places.iter().position(Option::is_none).unwrap_or(0);
        places[free] = Some(push);
    }

    /// A push arrives; it may come again. Who hears the answer, and what it says if it is a refusal.
    pub fn deliver(&mut self, place: u8, again: bool, scene: &Scene) -> Option<(Option<Inst>, Option<Refusal>)> {
        let push = self.agents.pushes[usize::from(place)]?;
        if !again {
            self.agents.pushes[usize::from(place)] = None;
        }
        let asked = fence_of(&push, scene);
        let known = record_of(self.agents.ledger);
        let admission = admit(&asked.compute_id, Some(&known), &asked);
        let (accepts, record) = if scene.is_off(Mutant::Ledger) {
            (true, Some((push.term, push.spec.generation, push.spec.content)))
        } else {
            (admission.verdict == Verdict::Accept, admission.record.map(|record| ledger_of(&record, push.spec.content)))
        };
        let agent = &mut self.agents;
        if accepts {
            if push.fleet != OURS {
                self.broken = Some(Breach::ForeignPush);
            } else if push.term < agent.heard || push.spec.generation < agent.acted {
                self.broken = Some(Breach::StalePush);
            }
            agent.acted = push.spec.generation;
        }
        if let Some(record) = record {
            if record.0 < agent.ledger.0 || record.1 < agent.ledger.1 {
                self.broken.get_or_insert(Breach::AgentWentBack);
            }
            let content = if record.1 == agent.ledger.1 && !accepts { agent.ledger.2 } else { record.2 };
            agent.ledger = (record.0, record.1, content);
        }
        if push.fleet == OURS {
            agent.heard = agent.heard.max(push.term);
        }
        let refusal = match admission.verdict {
            Verdict::Refuse(refusal) if !accepts => Some(refusal),
            Verdict::Refuse(_) | Verdict::Accept | Verdict::AlreadyAccepted => None,
        };
        Some((push.by, refusal))
    }

    /// The moment that the database will go back to.
    pub fn save(&mut self) -> bool {
        if self.agents.lost || self.agents.saved.is_some() {
            return false;
        }
        let (row, gave_up, failed) = (self.row, self.gave_up, self.failed);
        self.agents.saved = Some(Saved { row, gave_up, failed, spec: self.agents.spec });
        true
    }

    /// The database goes back; its sessions are gone with it.
    pub fn lose_commits(&mut self) -> bool {
        let Some(saved) = self.agents.saved.take() else { return false };
        (self.row, self.gave_up, self.failed) = (saved.row, saved.gave_up, saved.failed);
        self.agents.spec = saved.spec;
        self.agents.lost = true;
        for member in &mut self.members {
            member.write = None;
        }
        true
    }
}

fn own() -> ComputeId {
    "c".parse().unwrap_or_else(|error| panic!("the model's own compute id: {error}"))
}

fn hash_of(content: u8) -> SpecHash {
    let digits = char::from(b'a' + content).to_string().repeat(64);
    digits.parse().unwrap_or_else(|error| panic!("the model's own hash: {error}"))
}

fn fleet_of(fleet: u8) -> ClusterId {
    ClusterId(uuid::Uuid::from_u128(u128::from(fleet) + 1))
}

fn fence_of(push: &Push, scene: &Scene) -> Fence {
    let fleet = if scene.is_off(Mutant::ClusterId) { OURS } else { push.fleet };
    Fence {
        cluster_id: fleet_of(fleet),
        compute_id: own(),
        term: Term(i64::from(push.term)),
        generation: Generation(i64::from(push.spec.generation)),
        spec_hash: hash_of(push.spec.content),
    }
}

fn record_of((term, generation, content): (u8, u8, u8)) -> LedgerRecord {
    LedgerRecord {
        cluster_id: fleet_of(OURS),
        compute_id: own(),
        term: Term(i64::from(term)),
        generation: Generation(i64::from(generation)),
        spec_hash: hash_of(content),
    }
}

fn ledger_of(record: &LedgerRecord, content: u8) -> (u8, u8, u8) {
    let small = |number: i64| u8::try_from(number).unwrap_or(u8::MAX);
    (small(record.term.get()), small(record.generation.get()), content)
}
