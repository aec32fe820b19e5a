//! A small fleet that does one thing after the other and tells the truth about it.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::controller::Role;
use pgfleet_api::{BootId, ComputeId, Generation, InstanceId, SpecHash, Term};
use pgfleet_history::{Answer, Call, Entry, Event};
use uuid::Uuid;

/// One thing that happens; numbers name computes.
#[derive(Debug, Clone)]
pub enum Deed {
    Write(usize),
    /// The content that is there already.
    WriteAgain(usize),
    Read(usize),
    /// A write whose answer is lost.
    Lose {
        compute: usize,
        happens: bool,
    },
    Refuse(usize),
    Push(usize),
    RestartAgent(usize),
    HandOver,
}

/// The `n`-th content.
pub fn content(n: u64) -> SpecHash {
    format!("{n:064x}").parse().unwrap()
}

pub fn instance(n: i64) -> InstanceId {
    InstanceId(Uuid::from_u128(u128::try_from(n).unwrap()))
}

struct Compute {
    id: ComputeId,
    asked: Option<(i64, SpecHash)>,
    /// Term, generation and content in its ledger.
    holds: Option<(i64, i64, SpecHash)>,
    boot: u128,
    seq: u64,
}

pub struct World {
    entries: Vec<Entry>,
    computes: Vec<Compute>,
    term: i64,
    ops: u64,
    contents: u64,
}

impl World {
    /// What two computes under changing leaders tell while these deeds are done, between a first write and a last one.
    pub fn tell(deeds: &[Deed]) -> Vec<Entry> {
        let mut world = Self { entries: Vec::new(), computes: Vec::new(), term: 0, ops: 0, contents: 0 };
        world.say(Event::Begun { seed: Some(1), cluster_id: None });
        world.hand_over();
        for (number, name) in ["orders", "stock"].into_iter().enumerate() {
            let id = name.parse().unwrap();
            world.computes.push(Compute { id, asked: None, holds: None, boot: number as u128 + 1, seq: 0 });
            world.act(&Deed::Write(number));
            world.act(&Deed::Read(number));
            world.act(&Deed::Push(number));
        }
        for deed in deeds {
            world.act(deed);
        }
        world.say(Event::Fault { kind: "kill".into(), target: "the leader".into() });
        world.hand_over();
        for number in 0..2 {
            world.act(&Deed::Write(number));
            world.act(&Deed::Read(number));
            world.act(&Deed::Push(number));
        }
        world.end();
        world.entries
    }

    fn say(&mut self, event: Event) {
        let at_us = self.entries.len() as u64 * 1000;
        self.entries.push(Entry { at_us, event });
    }

    fn act(&mut self, deed: &Deed) {
        match *deed {
            Deed::Write(compute) => {
                let hash = self.fresh();
                self.write(compute, &hash);
            }
            Deed::WriteAgain(compute) => {
                let hash = self.computes[compute].asked.clone().unwrap().1;
                self.write(compute, &hash);
            }
            Deed::Read(compute) => {
                let (generation, spec_hash) = self.computes[compute].asked.clone().unwrap();
                let op = self.call(compute, Call::Read);
                self.say(Event::Answered {
                    op,
                    answer: Answer::Read { generation: Generation(generation), spec_hash },
                });
            }
            Deed::Lose { compute, happens } => {
                let hash = self.fresh();
                let op = self.call(compute, Call::Write { spec_hash: hash.clone() });
                if happens {
                    self.mint(compute, &hash);
                }
                self.say(Event::Answered { op, answer: Answer::Unknown { why: "no answer".into() } });
            }
            Deed::Refuse(compute) => {
                let hash = self.fresh();
                let op = self.call(compute, Call::Write { spec_hash: hash });
                self.say(Event::Answered { op, answer: Answer::Refused { status: 503, code: None } });
            }
            Deed::Push(compute) => self.push(compute),
            Deed::RestartAgent(compute) => {
                self.computes[compute].boot += 100;
                self.computes[compute].seq = 0;
                self.show(compute);
            }
            Deed::HandOver => self.hand_over(),
        }
    }

    fn fresh(&mut self) -> SpecHash {
        self.contents += 1;
        content(self.contents)
    }

    fn call(&mut self, compute: usize, call: Call) -> u64 {
        self.ops += 1;
        let compute_id = self.computes[compute].id.clone();
        self.say(Event::Called { op: self.ops, client: 1, compute_id, call });
        self.ops
    }

    fn write(&mut self, compute: usize, hash: &SpecHash) {
        let op = self.call(compute, Call::Write { spec_hash: hash.clone() });
        let generation = Generation(self.mint(compute, hash));
        self.say(Event::Answered { op, answer: Answer::Written { generation } });
    }

    fn mint(&mut self, compute: usize, hash: &SpecHash) -> i64 {
        let before = self.computes[compute].asked.take();
        let generation = match &before {
            Some((generation, known)) if known == hash => *generation,
            Some((generation, _)) => generation + 1,
            None => 1,
        };
        self.computes[compute].asked = Some((generation, hash.clone()));
        self.row("computes");
        generation
    }

    fn row(&mut self, table: &str) {
        let leader = instance(self.term);
        let (writer, term) = (format!("pgfleet/{leader}"), Term(self.term));
        self.say(Event::RowWritten { table: table.into(), writer, leader, term, released: false });
    }

    fn push(&mut self, compute: usize) {
        let (generation, hash) = self.computes[compute].asked.clone().unwrap();
        self.computes[compute].holds = Some((self.term, generation, hash));
        self.computes[compute].seq += 1;
        self.show(compute);
        self.row("observed");
    }

    fn show(&mut self, compute: usize) {
        let one = &self.computes[compute];
        let (term, generation, spec_hash) = one.holds.clone().map_or((None, None, None), |(term, generation, hash)| {
            (Some(Term(term)), Some(Generation(generation)), Some(hash))
        });
        self.say(Event::AgentSeen {
            compute_id: one.id.clone(),
            boot_id: BootId(Uuid::from_u128(one.boot)),
            status_seq: one.seq,
            state: ComputeState::Running,
            term,
            generation,
            applied_generation: generation,
            rejected_generation: None,
            spec_hash,
        });
    }

    fn hand_over(&mut self) {
        self.term += 1;
        let (term, instance_id) = (Term(self.term), instance(self.term));
        self.say(Event::TermSeen { term, instance_id, began: "crash".into(), ended: None });
        self.say(Event::MemberSeen { instance_id, role: Role::Leader, term: Some(term) });
    }

    fn end(&mut self) {
        for compute in 0..self.computes.len() {
            let (generation, spec_hash) = self.computes[compute].asked.clone().unwrap();
            let applied_generation = self.computes[compute].holds.as_ref().map(|(_, applied, _)| Generation(*applied));
            self.say(Event::Final {
                compute_id: self.computes[compute].id.clone(),
                generation: Generation(generation),
                spec_hash,
                applied_generation,
                rejected: false,
            });
        }
        self.say(Event::Leftovers { found: Vec::new() });
        self.say(Event::Ended);
    }
}
