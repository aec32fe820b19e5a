//! The bounded run of the model: small scenes whole, every rule switched off in turn, and stateright's own checker beside it.

use pgfleet_model::explore::{Explored, explore};
use pgfleet_model::report::{describe, judge};
use pgfleet_model::scene::{Breach, Finding, Mutant, Scene};
use stateright::{Checker, Model};

/// More states than any of these scenes has.
const LIMIT: usize = 5_000_000;

fn explored(scene: &Scene) -> Explored {
    explore(scene, LIMIT, |_, _| {})
}

#[test]
fn no_state_breaks_a_rule_and_from_each_every_member_can_lead() {
    for scene in Scene::BOUNDED {
        let found = explored(&scene);
        let wrong = judge(&found);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(found.states > 10_000, "{}: {} states are too few to say anything", scene.name, found.states);
    }
}

#[test]
fn every_rule_that_is_switched_off_is_missed() {
    for mutant in Mutant::ALL {
        let found = explored(&mutant.scene());
        let seen = mutant.finds().iter().any(|finding| found.has(*finding));
        assert!(seen, "{}: {:?} breaches, {:?} headless", mutant.as_str(), found.breaches, found.headless);
    }
}

#[test]
fn the_same_scenes_with_their_rules_on_are_clean() {
    // What catches a mutant is the rule's absence, not the scene.
    for mutant in [Mutant::EndSessions, Mutant::Revert] {
        let found = explored(&Scene { mutant: None, ..mutant.scene() });
        assert!(judge(&found).is_empty(), "{}", judge(&found).join("\n"));
    }
}

#[test]
fn a_counterexample_is_told_step_by_step() {
    let found = explored(&Mutant::Fence.scene());
    let text = describe(&found, Finding::Breach(Breach::StaleWrite)).unwrap();
    assert!(text.starts_with("broken: a write commits only under the row's term"), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.contains("row: term")), "{text}");
    assert!(text.contains("WriteCommits"), "{text}");
}

#[test]
fn a_limit_that_is_too_small_is_said() {
    let found = explore(&Scene::WRITES, 100, |_, _| {});
    assert!(!found.complete);
    assert_eq!(judge(&found).len(), 1);
}

#[test]
fn stateright_sees_the_same_states() {
    let scene = Scene { writes: true, ..Scene::NOTHING };
    let ours = explored(&scene);
    let theirs = scene.checker().spawn_bfs().join();
    assert_eq!(theirs.unique_state_count(), ours.states);
    theirs.assert_properties();
}

#[test]
fn stateright_finds_the_same_breach() {
    let scene = Mutant::Fence.scene();
    let theirs = scene.checker().spawn_bfs().join();
    assert!(theirs.discovery(Breach::StaleWrite.property()).is_some());
    assert!(theirs.discovery(Breach::TwoOwners.property()).is_none());
}
