//! Histories as long and as concurrent as a chaos run's: the search for a linearization has to end.

use std::time::{Duration, Instant};

use pgfleet_api::{ComputeId, Generation, SpecHash};
use pgfleet_history::{Answer, Call, Entry, Event, Options, Outcome, check};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::content;

/// A call under way: what it will be answered is known from the moment it takes effect.
struct Under {
    client: u32,
    op: u64,
    call: Call,
    effect: Option<Answer>,
}

struct Bed {
    random: StdRng,
    entries: Vec<Entry>,
    under: Vec<Under>,
    /// Generation and content of the one compute.
    value: Option<(i64, SpecHash)>,
    /// Writes whose answer is lost and which take effect later.
    late: Vec<SpecHash>,
    ops: u64,
}

/// Eight clients at once on one compute, every fourth write without a certain end.
fn concurrent(seed: u64, calls: u64) -> Vec<Entry> {
    let mut bed = Bed {
        random: StdRng::seed_from_u64(seed),
        entries: Vec::new(),
        under: Vec::new(),
        value: None,
        late: Vec::new(),
        ops: 0,
    };
    bed.say(Event::Begun { seed: Some(seed), cluster_id: None });
    while bed.ops < calls || !bed.under.is_empty() {
        let free: Vec<u32> = (0..8).filter(|client| bed.under.iter().all(|one| one.client != *client)).collect();
        match bed.random.random_range(0..10) {
            0..4 if bed.ops < calls && !free.is_empty() => bed.call(free[0]),
            4..9 if !bed.under.is_empty() => bed.go_on(),
            9 => bed.arrive_late(),
            _ => {}
        }
    }
    bed.entries
}

impl Bed {
    fn say(&mut self, event: Event) {
        let at_us = self.entries.len() as u64;
        self.entries.push(Entry { at_us, event });
    }

    fn call(&mut self, client: u32) {
        self.ops += 1;
        let write = self.value.is_none() || self.random.random_bool(0.4);
        let call = if write { Call::Write { spec_hash: content(self.ops) } } else { Call::Read };
        let compute_id: ComputeId = "orders".parse().unwrap();
        self.say(Event::Called { op: self.ops, client, compute_id, call: call.clone() });
        self.under.push(Under { client, op: self.ops, call, effect: None });
    }

    /// Lets one call take effect, or answers one that has.
    fn go_on(&mut self) {
        let chosen = self.random.random_range(0..self.under.len());
        if let Some(answer) = self.under[chosen].effect.take() {
            let op = self.under.remove(chosen).op;
            self.say(Event::Answered { op, answer });
            return;
        }
        let lost = self.random.random_bool(0.25);
        let answer = match self.under[chosen].call.clone() {
            Call::Write { spec_hash } if lost => {
                self.late.push(spec_hash);
                Answer::Unknown { why: "no answer".into() }
            }
            Call::Write { spec_hash } => Answer::Written { generation: self.mint(spec_hash) },
            Call::Read => match self.value.clone() {
                Some((generation, spec_hash)) => Answer::Read { generation: Generation(generation), spec_hash },
                None => Answer::Refused { status: 404, code: None },
            },
        };
        self.under[chosen].effect = Some(answer);
    }

    fn arrive_late(&mut self) {
        if !self.late.is_empty() {
            let chosen = self.random.random_range(0..self.late.len());
            let hash = self.late.swap_remove(chosen);
            // Half of them are never heard of again.
            if self.random.random_bool(0.5) {
                self.mint(hash);
            }
        }
    }

    fn mint(&mut self, hash: SpecHash) -> Generation {
        let generation = self.value.as_ref().map_or(0, |(generation, _)| *generation) + 1;
        self.value = Some((generation, hash));
        Generation(generation)
    }
}

fn options() -> Options {
    Options { expect_load: true, linearizable_within: Duration::from_secs(60), ..Options::live() }
}

#[test]
fn long_concurrent_histories_are_decided() {
    for seed in 1..=4 {
        let history = concurrent(seed, 4000);
        let began = Instant::now();
        let report = check(&history, &options());
        assert!(report.passed(), "seed {seed}\n{report}");
        println!("seed {seed}: {} lines in {:?}", history.len(), began.elapsed());
    }
}

#[test]
fn one_stale_read_among_thousands_is_found_and_named() {
    for seed in 1..=8 {
        let mut history = concurrent(seed, 2000);
        // A read that shows, long after it was overwritten, what an early read showed.
        let reads: Vec<usize> = (0..history.len())
            .filter(|n| matches!(history[*n].event, Event::Answered { answer: Answer::Read { .. }, .. }))
            .collect();
        let (early, late) = (reads[reads.len() / 4], reads[reads.len() / 2]);
        let Event::Answered { answer: stale, .. } = history[early].event.clone() else { unreachable!() };
        let Event::Answered { answer, .. } = &mut history[late].event else { unreachable!() };
        *answer = stale;
        let report = check(&history, &options());
        assert_eq!(report.named(Outcome::Broken), ["linearizable"], "seed {seed}\n{report}");
        let broken = report.invariants.iter().find(|one| one.name == "linearizable").unwrap();
        assert_eq!(broken.violations.len(), 1);
        assert_eq!(broken.violations[0].lines.last(), Some(&(late + 1)), "seed {seed}\n{report}");
    }
}
