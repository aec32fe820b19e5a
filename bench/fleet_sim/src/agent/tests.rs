//! What an agent does over time. That it answers as a real one is held by the conformance test.

use pgfleet_api::agent::{ComputeState, TerminateMode};
use pgfleet_api::spec::{ComputeMode, RestartPolicy};
use pgfleet_api::{BootId, ClusterId, ComputeId, Fence, Generation, SpecHash, Term};

use super::*;

fn own() -> ComputeId {
    "sim-0".parse().unwrap()
}

fn hash(generation: i64) -> SpecHash {
    format!("{generation:064x}").parse().unwrap()
}

fn push(agent: &mut Agent, generation: i64, now: Micros, apply: (Micros, bool)) -> Option<u32> {
    let fence = Fence {
        cluster_id: ClusterId(uuid::Uuid::from_u128(1)),
        compute_id: own(),
        term: Term(1),
        generation: Generation(generation),
        spec_hash: hash(generation),
    };
    let judge = || {
        let restart_policy = RestartPolicy::default();
        Ok(Content { ignored: Vec::new(), mode: ComputeMode::Primary, disposable: false, restart_policy })
    };
    let hash = || hash(generation);
    let ask = Ask { fence: Some(&fence), origin: Origin::Push, hash: &hash, judge: &judge, apply };
    agent.configure(&own(), &ask, now).unwrap()
}

fn shown(agent: &Agent) -> (ComputeState, Option<i64>, Option<i64>) {
    let face = Face { own: own(), boot_id: BootId::generate(), epoch: chrono::Utc::now(), number: 2 };
    let status = agent.status(face);
    (status.status, status.applied_generation.map(Generation::get), status.rejected_generation.map(Generation::get))
}

#[test]
fn an_agent_is_some_hundred_bytes() {
    let bytes = std::mem::size_of::<std::sync::Mutex<Agent>>();
    println!("{bytes} bytes per agent");
    assert!(bytes <= 512, "{bytes}");
}

#[test]
fn a_hash_comes_back_as_it_was() {
    let text: String = "0123456789abcdef".repeat(4);
    assert_eq!(Digest::of(&text.parse().unwrap()).text().as_str(), text);
}

#[test]
fn a_spec_is_in_effect_when_its_time_is_over() {
    let mut agent = Agent::new(0);
    let job = push(&mut agent, 1, 10, (1000, false)).unwrap();
    assert_eq!(shown(&agent), (ComputeState::Configuration, None, None));
    assert_eq!(agent.progress(job, 500), Progress::Until(1010));
    assert_eq!(agent.progress(job, 1010), Progress::Done(Outcome::Applied));
    assert_eq!(shown(&agent), (ComputeState::Running, Some(1), None));
    assert_eq!(push(&mut agent, 1, 2000, (1000, false)), None, "the same again is no work");
}

#[test]
fn the_newest_takes_the_place_of_the_one_that_waits() {
    let mut agent = Agent::new(0);
    let jobs = [1, 2, 3].map(|generation| push(&mut agent, generation, 0, (500_000, false)).unwrap());
    assert_eq!(agent.progress(jobs[1], 1), Progress::Done(Outcome::Superseded));
    assert_eq!(agent.progress(jobs[2], 1), Progress::Until(500_000));
    agent.advance(2_000_000);
    assert_eq!(
        jobs.map(|job| agent.progress(job, 2_000_000)),
        [Progress::Done(Outcome::Applied), Progress::Done(Outcome::Superseded), Progress::Done(Outcome::Applied),]
    );
    assert_eq!(shown(&agent).1, Some(3));
}

#[test]
fn one_that_takes_long_makes_way_for_a_newer_one() {
    let mut agent = Agent::new(0);
    let first = push(&mut agent, 1, 0, (60_000_000, false)).unwrap();
    push(&mut agent, 2, 0, (1000, false)).unwrap();
    assert_eq!(agent.progress(first, 1_000_000), Progress::Done(Outcome::Superseded));
    agent.advance(1_001_000);
    assert_eq!(shown(&agent), (ComputeState::Running, Some(2), None));
}

#[test]
fn a_failure_is_kept_as_rejected_and_a_new_spec_leads_on() {
    let mut agent = Agent::new(0);
    push(&mut agent, 1, 0, (10, false));
    let job = push(&mut agent, 2, 100, (10, true)).unwrap();
    assert_eq!(agent.progress(job, 200), Progress::Done(Outcome::Failed));
    assert_eq!(shown(&agent), (ComputeState::Failed, Some(1), Some(2)));
    assert_eq!(push(&mut agent, 2, 300, (10, false)), None, "what was rejected is not done again");
    push(&mut agent, 3, 400, (10, false));
    agent.advance(500);
    assert_eq!(shown(&agent), (ComputeState::Running, Some(3), Some(2)));
}

#[test]
fn a_new_life_begins_with_what_the_ledger_has() {
    let mut agent = Agent::new(0);
    agent.restart(5, 10);
    assert_eq!(shown(&agent).0, ComputeState::Empty);
    push(&mut agent, 1, 10, (10, false));
    agent.advance(100);
    push(&mut agent, 2, 100, (10, true));
    agent.restart(1000, 10);
    assert_eq!(agent.life(), 2);
    assert_eq!(shown(&agent), (ComputeState::Init, None, Some(2)), "the failed one is not tried again");
    agent.advance(1010);
    assert_eq!(shown(&agent), (ComputeState::Running, Some(1), Some(2)));

    let mut agent = Agent::new(0);
    push(&mut agent, 1, 10, (10, true));
    agent.restart(1000, 10);
    assert_eq!(shown(&agent), (ComputeState::Failed, None, Some(1)), "there is nothing to go back to");
}

#[test]
fn an_end_takes_its_time_and_is_the_last() {
    let mut agent = Agent::new(0);
    let job = push(&mut agent, 1, 0, (10_000, false)).unwrap();
    let ending = agent.terminate(TerminateMode::Fast, 100, 50);
    assert_eq!(ending, Ending { at: 150, before: false });
    assert_eq!(agent.progress(job, 100), Progress::Done(Outcome::Ended));
    assert_eq!(shown(&agent).0, ComputeState::TerminationPendingFast);
    assert!(agent.terminate(TerminateMode::Fast, 200, 50).before);
    assert_eq!(shown(&agent).0, ComputeState::Terminated);
    assert!(!agent.is_gone(150 + LAST_WORDS - 1) && agent.is_gone(150 + LAST_WORDS));
    agent.terminate(TerminateMode::Immediate, 300, 50);
    assert!(agent.is_gone(300));
}
