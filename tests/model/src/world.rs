//! All that there is at one moment: the database, the members, what is under way between them; and its canonical form.
//!
//! Invariant (tested): the successors of a world and of its canonical form have the same canonical forms.

use crate::agents::{Agents, Spec};
use crate::mind::{Inst, LeaderRow, Mind, Stand};
use crate::scene::{Breach, Mutant, Scene};

/// What a peer answered, on its way back.
pub use pgfleet_domain::leadership::Answer;

/// A question for a status, asked of the row that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// The row's term and owner.
    pub term: u8,
    /// Whom.
    pub owner: Inst,
    /// What came back, while it travels.
    pub answer: Option<Told>,
}

/// [`Answer`] in a form that can be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Told {
    /// It holds on.
    Holds,
    /// It gave up.
    SteppedDown(Option<Inst>),
    /// It is dead.
    Dead,
}

/// A request to step down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Plea {
    /// Whom.
    pub to: Inst,
    /// In which term.
    pub term: u8,
    /// Also for a migration that failed.
    pub force: bool,
    /// Whether the leader stepped down, and its answer travels.
    pub granted: bool,
}

/// A claim under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bid {
    /// The row that it replaces.
    pub seen: Option<(u8, Inst)>,
    /// Whether the old leader's consent is taken for given; if not, `renewals` are compared.
    pub consent: bool,
    /// Whether the row was renewed since it was decided.
    pub renewed: bool,
    /// The new term is above this one, too.
    pub floor: u8,
    /// Whether the old owner's sessions are ended first.
    pub end_sessions: bool,
    /// How far it is.
    pub stage: Stage,
    /// Age of what proves the lease if it is won.
    pub age: u8,
}

/// How far a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Decided.
    Decided,
    /// The old owner's sessions were ended.
    Ready,
    /// Committed; the answer travels.
    Won(u8),
    /// The row was not as seen; the answer travels.
    Lost,
}

/// One member: an address, and at most one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// Its last process.
    pub last: Inst,
    /// That process, if it lives.
    pub mind: Option<Mind>,
    /// Its question for a status.
    pub question: Option<Question>,
    /// Its request to step down.
    pub plea: Option<Plea>,
    /// Its claim.
    pub bid: Option<Bid>,
    /// Its open write transaction, or that of a process before it.
    pub write: Option<Write>,
    /// The spec that its process knows.
    pub knows: Spec,
}

/// An open write transaction, with a fence that held when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Write {
    /// Whose.
    pub by: Inst,
    /// In which term.
    pub term: u8,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The leader row.
    pub row: Option<LeaderRow>,
    /// Whether its owner ever gave up that term.
    pub gave_up: bool,
    /// Whether a failed migration ended the row's term, and the one before it.
    pub failed: [bool; 2],
    /// The members.
    pub members: Vec<Member>,
    /// Highest term ever given.
    pub top: u8,
    /// Specs, pushes and the agent.
    pub agents: Agents,
    /// A rule of safety that the last step broke.
    pub broken: Option<Breach>,
}

impl World {
    /// Members that were never started, an empty database.
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        let member = |slot| Member {
            last: Inst { slot, life: 0 },
            mind: None,
            question: None,
            plea: None,
            bid: None,
            write: None,
            knows: Spec::default(),
        };
        Self {
            row: None,
            gave_up: false,
            failed: [false; 2],
            members: (0..scene.members).map(member).collect(),
            top: 0,
            agents: Agents::default(),
            broken: None,
        }
    }

    /// A member.
    #[must_use]
    pub fn member(&self, slot: u8) -> &Member {
        &self.members[usize::from(slot)]
    }

    /// The same, to be changed.
    pub fn member_mut(&mut self, slot: u8) -> &mut Member {
        &mut self.members[usize::from(slot)]
    }

    /// The process, if it is the one that lives.
    #[must_use]
    pub fn process(&self, inst: Inst) -> Option<&Mind> {
        self.member(inst.slot).mind.as_ref().filter(|mind| mind.me == inst)
    }

    /// Whether this member serves under the row's term.
    #[must_use]
    pub fn leads(&self, slot: u8) -> bool {
        let Some(mind) = &self.member(slot).mind else { return false };
        let Some(row) = self.row.filter(|row| row.owner == mind.me && !row.released) else { return false };
        matches!(mind.stand, Stand::Leader { term, .. } if term == row.term)
    }

    /// Whether the fence of this process holds in this term.
    #[must_use]
    pub fn holds(&self, inst: Inst, term: u8) -> bool {
        self.row.is_some_and(|row| row.term == term && row.owner == inst && !row.released)
    }

    /// Whether this member leads, and the agent, if there is one, has what the database says.
    #[must_use]
    pub fn governs(&self, slot: u8, scene: &Scene) -> bool {
        let agent = &self.agents;
        let obeys = self.row.is_some_and(|row| (row.term, agent.spec.generation, agent.spec.content) == agent.ledger);
        self.leads(slot) && (scene.pushes == 0 || obeys)
    }

    /// Whether an open write holds the lock that a claim of the row waits for.
    #[must_use]
    pub fn is_locked(&self, scene: &Scene) -> bool {
        let Some(row) = self.row else { return false };
        let holds = |write: &Write| write.term == row.term && write.by == row.owner;
        !scene.is_off(Mutant::Fence) && self.members.iter().any(|member| member.write.as_ref().is_some_and(holds))
    }

    fn each_inst(&mut self, mut f: impl FnMut(&mut Inst)) {
        if let Some(row) = &mut self.row {
            f(&mut row.owner);
        }
        for member in &mut self.members {
            member.each_inst(&mut f);
        }
        self.agents.each_inst(&mut f);
    }

    fn each_term(&mut self, mut f: impl FnMut(&mut u8)) {
        f(&mut self.top);
        if let Some(row) = &mut self.row {
            f(&mut row.term);
        }
        for member in &mut self.members {
            member.each_term(&mut f);
        }
        self.agents.each_term(&mut f);
    }

    fn each_generation(&mut self, mut f: impl FnMut(&mut u8)) {
        for member in &mut self.members {
            f(&mut member.knows.generation);
        }
        self.agents.each_generation(&mut f);
    }

    /// The canonical form, and where each member is in it.
    pub fn canon(&mut self, scene: &Scene) -> Vec<u8> {
        self.forget(scene);
        let mut terms = Ranks::default();
        self.each_term(|term| terms.see(*term));
        self.each_term(|term| *term = terms.rank(*term));
        let mut generations = Ranks::default();
        self.each_generation(|generation| generations.see(*generation));
        self.each_generation(|generation| *generation = generations.rank(*generation));
        let mut lives = [Ranks::default(); 4];
        self.each_inst(|inst| lives[usize::from(inst.slot)].see(inst.life));
        self.each_inst(|inst| inst.life = lives[usize::from(inst.slot)].rank(inst.life));
        self.sort()
    }

    /// Drops what no decision can depend on any more.
    fn forget(&mut self, scene: &Scene) {
        let row = self.row;
        for member in &mut self.members {
            member.forget(row, self.agents.spec, scene);
        }
        if let Some(row) = &mut self.row {
            row.renewals = 1;
        }
        if scene.lost_commits {
            // Terms are given again after a loss.
            self.top = 0;
        }
        self.agents.forget();
    }

    /// Members are alike: the order of their addresses says nothing.
    fn sort(&mut self) -> Vec<u8> {
        let owner = self.row.map(|row| row.owner.slot);
        // Where the others name a member tells apart those that are alike in themselves.
        let mut named = [0u64; 4];
        for member in &mut self.members {
            let (own, mut at) = (member.last.slot, 0);
            member.each_inst(&mut |inst| {
                at += 1;
                named[usize::from(inst.slot)] += if inst.slot == own { 0 } else { 1 << at };
            });
        }
        let mut order: Vec<(Member, u64, u8)> = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let slot = member.last.slot;
            let mut alike = *member;
            alike.each_inst(&mut |inst| {
                inst.slot = u8::from(inst.slot != slot) + u8::from(Some(inst.slot) != owner) * 2;
            });
            order.push((alike, named[usize::from(slot)], slot));
        }
        order.sort_unstable();
        let mut place = vec![0; order.len()];
        for (to, (_, _, from)) in (0..).zip(&order) {
            place[usize::from(*from)] = to;
        }
        let old = self.members.clone();
        for (member, (_, _, from)) in self.members.iter_mut().zip(&order) {
            *member = old[usize::from(*from)];
        }
        self.each_inst(|inst| inst.slot = place[usize::from(inst.slot)]);
        place
    }
}

impl Member {
    fn each_inst(&mut self, f: &mut impl FnMut(&mut Inst)) {
        f(&mut self.last);
        if let Some(mind) = &mut self.mind {
            mind.each_inst(f);
        }
        if let Some(question) = &mut self.question {
            f(&mut question.owner);
            if let Some(Told::SteppedDown(Some(inst))) = &mut question.answer {
                f(inst);
            }
        }
        if let Some(plea) = &mut self.plea {
            f(&mut plea.to);
        }
        if let Some(Bid { seen: Some((_, inst)), .. }) = &mut self.bid {
            f(inst);
        }
        if let Some(write) = &mut self.write {
            f(&mut write.by);
        }
    }

    fn each_term(&mut self, f: &mut impl FnMut(&mut u8)) {
        if let Some(mind) = &mut self.mind {
            mind.each_term(f);
        }
        if let Some(question) = &mut self.question {
            f(&mut question.term);
        }
        if let Some(plea) = &mut self.plea {
            f(&mut plea.term);
        }
        if let Some(bid) = &mut self.bid {
            f(&mut bid.floor);
            if let Some((term, _)) = &mut bid.seen {
                f(term);
            }
            if let Stage::Won(term) = &mut bid.stage {
                f(term);
            }
        }
        if let Some(write) = &mut self.write {
            f(&mut write.term);
        }
    }

    fn forget(&mut self, row: Option<LeaderRow>, spec: Spec, scene: &Scene) {
        // Only a leader pushes, and it reads what there is when it takes over.
        let pushes = |mind: &Mind| matches!(mind.stand, Stand::Leader { .. } | Stand::Suspended { .. });
        if !self.mind.as_ref().is_some_and(pushes) {
            self.knows = spec;
        }
        if let Some(bid) = &mut self.bid {
            bid.forget(row, scene);
        }
        let (asking, asks) = (self.question.is_some(), self.plea.is_some());
        let Some(mind) = &mut self.mind else { return };
        if !scene.lost_commits {
            // No term is above the row's: the floor of a claim makes no difference.
            mind.highest = row.map_or(0, |row| row.term);
            // A wish that asked an earlier leader asks this one, too.
            if let (Some(wish), false) = (&mut mind.wish, asks) {
                wish.asked = wish.asked.filter(|asked| row.is_some_and(|row| row.term == *asked));
            }
        }
        if let Some(sight) = &mut mind.sight {
            let same = row.is_some_and(|row| row.term == sight.row.term && row.owner == sight.row.owner);
            let still = same && row.is_some_and(|row| row.renewals == sight.row.renewals);
            // The next reading counts anew: nothing says since when it stood, or that it was read.
            let anew =
                mind.blind || !still || sight.read > 1 || row.is_some_and(|row| row.released != sight.row.released);
            sight.row.renewals = u8::from(still);
            if anew {
                (sight.since, sight.read) = (0, 0);
                mind.blind = true;
            }
            // Nobody waits for an answer about a term that is over: the next reading replaces it.
            if !same && !asking && !asks {
                mind.sight = None;
            }
        }
        if mind.sight.is_none() {
            mind.blind = false;
        }
    }
}

impl Bid {
    /// A claim on a row that has changed is lost, whatever else it says.
    fn forget(&mut self, row: Option<LeaderRow>, scene: &Scene) {
        if scene.lost_commits {
            return;
        }
        self.floor = row.map_or(0, |row| row.term);
        let stands = match (self.seen, row) {
            (None, None) => true,
            (Some((term, owner)), Some(row)) => {
                let compares = !self.consent && !scene.is_off(Mutant::Renewals);
                row.term == term && row.owner == owner && !(compares && self.renewed)
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        let over = matches!(self.stage, Stage::Won(_) | Stage::Lost);
        if over || !stands {
            let stage = if matches!(self.stage, Stage::Won(_)) { self.stage } else { Stage::Lost };
            let age = if matches!(stage, Stage::Won(_)) { self.age } else { 0 };
            *self =
                Self { seen: None, consent: true, renewed: false, floor: self.floor, end_sessions: false, stage, age };
        }
    }
}

/// Numbers that are only compared, and their ranks from 0 on.
#[derive(Debug, Clone, Copy, Default)]
struct Ranks(u128);

impl Ranks {
    fn see(&mut self, number: u8) {
        assert!(number < 128, "a number of the model grows without end: {number}");
        self.0 |= 1 << number;
    }

    fn rank(self, number: u8) -> u8 {
        u8::try_from((self.0 & ((1u128 << number) - 1)).count_ones()).unwrap_or(u8::MAX)
    }
}
