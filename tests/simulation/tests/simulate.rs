//! The simulation in `make test`: fresh seeds, the seeds that are kept, and the proof that it can fail.

use std::time::{Duration, Instant, SystemTime};

use pgfleet_simulation::campaign::{Tally, explain, run_caught, shrink};
use pgfleet_simulation::{Mutation, Options, run};

/// How long fresh seeds are run.
const FRESH: Duration = Duration::from_secs(20);
/// A mutation is to be seen within so many seeds.
const SEEDS: u64 = 400;

fn kept() -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (seed, why) = line.split_once(' ').unwrap_or((line, ""));
            assert!(!why.trim().is_empty(), "no reason for {line}");
            seed.parse().unwrap_or_else(|error| panic!("no seed in {line:?}: {error}"))
        })
        .collect()
}

fn must_hold(tally: &Tally) {
    if let Some((seed, _)) = tally.violations.first() {
        panic!("{}", explain(*seed, &Options::default()));
    }
}

#[test]
fn kept_seeds_hold() {
    let mut tally = Tally::default();
    kept().into_iter().for_each(|seed| tally.run(seed, &Options::default()));
    must_hold(&tally);
}

#[test]
fn fresh_seeds_hold() {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    let base = clock.as_secs() * 1_000_000;
    println!("seeds from {base}; replay one: make simulate SEED={base} SECONDS=0");
    let (begun, mut tally) = (Instant::now(), Tally::default());
    while begun.elapsed() < FRESH && tally.violations.is_empty() {
        tally.run(base + tally.schedules, &Options::default());
    }
    println!("{} schedules, {} steps, faults {:?}", tally.schedules, tally.steps, tally.faults);
    must_hold(&tally);
    assert!(tally.schedules >= 20, "only {} schedules", tally.schedules);
    assert!(tally.terms > tally.schedules && tally.writes > tally.schedules, "nothing happened: {tally:?}");
    assert!(tally.faults.len() >= 9, "few kinds of fault: {:?}", tally.faults);
}

#[test]
fn the_same_seed_gives_the_same_steps() {
    for seed in 0..40 {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(first, second, "seed {seed}");
        let traced = run(seed, &Options { trace: true, ..Options::default() });
        assert_eq!((first.hash, first.steps), (traced.hash, traced.steps), "a trace changes nothing");
    }
    assert_ne!(run(1, &Options::default()).hash, run(2, &Options::default()).hash);
}

/// The first seed that sees a rule missing, and what it said.
fn caught(mutation: Mutation) -> (u64, String) {
    let options = Options { mutation: Some(mutation), ..Options::default() };
    let found = (0..SEEDS).find_map(|seed| Some((seed, run_caught(seed, &options).violation?)));
    found.unwrap_or_else(|| panic!("{SEEDS} seeds do not see {mutation:?}"))
}

#[test]
fn every_rule_that_is_switched_off_is_seen() {
    for mutation in Mutation::ALL {
        let (seed, violation) = caught(mutation);
        println!("{mutation:?}: seed {seed}: {violation}");
        let expected = match mutation {
            Mutation::FenceOff | Mutation::UniqueOff => "a write was committed under term",
            Mutation::RenewalsOff => "without consent although it was renewed",
            Mutation::LedgerOff => "took (",
            Mutation::RevertOff | Mutation::LeaseOff => "after the faults ended",
            Mutation::GateOff => "executes for term",
            Mutation::EarlyAck => "was acknowledged and is not committed",
        };
        assert!(violation.contains(expected), "{mutation:?}: seed {seed}: {violation}");
    }
}

#[test]
fn a_failure_shrinks_and_says_how_to_see_it_again() {
    let options = Options { mutation: Some(Mutation::LedgerOff), ..Options::default() };
    let (seed, _) = caught(Mutation::LedgerOff);
    let smallest = shrink(seed, &options);
    assert!(run(seed, &smallest).violation.is_some());
    assert!(smallest.skip.len() < run(seed, &options).schedule.len() || smallest.skip.is_empty());
    let text = explain(seed, &options);
    assert!(text.contains(&format!("make simulate SEED={seed}")) && text.contains(" ms  "), "{text}");
}
