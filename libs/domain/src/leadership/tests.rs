//! The rules of leadership, one test each, and whatever happens in random order.

use pgfleet_api::controller::{Candidate, ControllerStatus, Role};
use proptest::prelude::*;

use super::*;

fn id(n: u128) -> InstanceId {
    InstanceId(uuid::Uuid::from_u128(n))
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config(me: u128, ask: bool) -> Config {
    Config {
        me: id(me),
        address: format!("http://m{me}"),
        start_as_candidate: ask,
        renew: at(500),
        lease: at(5000),
        margin: at(1000),
        hold: at(2000),
    }
}

fn row(owner: u128, term: i64, renewals: i64) -> Row {
    Row {
        term: Term(term),
        instance_id: id(owner),
        address: format!("http://m{owner}"),
        renewals,
        lease: at(5000),
        released: false,
    }
}

fn run(state: State, events: Vec<(u64, Event)>) -> (State, Vec<Action>) {
    events.into_iter().fold((state, Vec::new()), |(state, _), (ms, event)| decide(&state, event, at(ms)))
}

fn claim_of(actions: &[Action]) -> Claim {
    match actions {
        [Action::Claim(claim)] => *claim,
        other => panic!("no claim in {other:?}"),
    }
}

fn leading(me: u128, term: i64) -> State {
    let events = vec![
        (0, Event::RowRead(None)),
        (1, Event::ClaimEnded(ClaimEnd::Won { term: Term(term), sent_at: at(0) })),
        (2, Event::TookOver),
    ];
    run(State::new(config(me, false)), events).0
}

#[test]
fn an_empty_database_is_claimed_at_once() {
    let (state, actions) = run(State::new(config(1, true)), vec![(0, Event::RowRead(None))]);
    assert_eq!(claim_of(&actions), Claim { seen: None, floor: Term(0), how: Began::First, end_sessions: false });
    let (state, actions) = decide(&state, Event::ClaimEnded(ClaimEnd::Won { term: Term(1), sent_at: at(0) }), at(5));
    assert_eq!(actions, [Action::TakeOver(Term(1))]);
    assert_eq!(state.role(), Role::TakingOver);
    assert_eq!(decide(&state, Event::TookOver, at(9)).0.role(), Role::Leader);
}

#[test]
fn a_candidate_asks_for_a_step_down_once_and_only_with_the_flag() {
    let (_, actions) = run(State::new(config(2, false)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]);
    assert_eq!(actions, [Action::AskStatus(row(1, 3, 7))]);
    let (state, actions) = run(State::new(config(2, true)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]);
    assert!(matches!(actions.as_slice(), [Action::AskStepDown(leader)] if leader.term == Term(3)));
    let (_, actions) =
        run(state, vec![(10, Event::AskEnded(AskEnd::Failed)), (20, Event::RowRead(Some(row(1, 3, 8))))]);
    assert_eq!(actions, [Action::AskStatus(row(1, 3, 8))], "it asks once per process");
}

#[test]
fn consent_needs_no_watched_renewals_and_ends_no_sessions() {
    let events = vec![(0, Event::RowRead(Some(row(1, 3, 7)))), (10, Event::AskEnded(AskEnd::Consented))];
    let (_, actions) = run(State::new(config(2, true)), events);
    let claim = claim_of(&actions);
    assert_eq!(claim.how, Began::StepDown);
    assert_eq!(claim.seen, Some(Seen { term: Term(3), instance_id: id(1), renewals: None }));
    assert!(!claim.end_sessions);
}

#[test]
fn a_refused_token_ends_the_process() {
    let events = vec![(0, Event::RowRead(Some(row(1, 3, 7)))), (10, Event::AskEnded(AskEnd::Unauthorized))];
    let (state, actions) = run(State::new(config(2, true)), events);
    assert_eq!((state.phase, actions), (Phase::Gone, vec![Action::Exit(Ending::Unauthorized)]));
}

#[test]
fn the_answer_table() {
    let status = |instance: u128, role, successor: Option<u128>| {
        Reply::Status(ControllerStatus {
            role,
            instance_id: id(instance),
            address: "http://m1".into(),
            version: String::new(),
            term: None,
            leader: None,
            successor: successor.map(|n| Candidate { instance_id: id(n), address: String::new() }),
            hold_ms: Some(2000),
        })
    };
    let seen = row(1, 3, 7);
    let stepped = |successor: Option<u128>| Answer::SteppedDown { successor: successor.map(id), hold: at(2000) };
    let rows = [
        (status(1, Role::TakingOver, None), Answer::Holds),
        (status(1, Role::Leader, None), Answer::Holds),
        (status(1, Role::Suspended, None), Answer::Holds),
        (status(1, Role::SteppingDown, None), Answer::Holds),
        (status(1, Role::SteppedDown, Some(4)), stepped(Some(4))),
        (status(1, Role::SteppedDown, None), stepped(None)),
        (status(1, Role::Candidate, None), Answer::Silent),
        (status(9, Role::Leader, None), Answer::Dead),
        (Reply::Refused, Answer::Dead),
        (Reply::Silent, Answer::Silent),
    ];
    for (reply, want) in rows {
        assert_eq!(judge(&seen, "http://m2", &reply), want, "{reply:?}");
        assert_eq!(judge(&seen, "http://m1", &reply), Answer::Dead, "my own listener proves that the owner is gone");
    }
}

#[test]
fn a_dead_leader_is_replaced_only_as_it_was_seen() {
    let events =
        vec![(0, Event::RowRead(Some(row(1, 3, 7)))), (1, Event::Answered { term: Term(3), answer: Answer::Dead })];
    let claim = claim_of(&run(State::new(config(2, false)), events).1);
    assert_eq!(claim.seen, Some(Seen { term: Term(3), instance_id: id(1), renewals: Some(7) }));
    assert!(claim.end_sessions);
    assert_eq!(claim.how, Began::Crash);
}

#[test]
fn an_answer_about_an_older_row_is_ignored() {
    let events = vec![
        (0, Event::RowRead(Some(row(1, 3, 7)))),
        (1, Event::RowRead(Some(row(4, 4, 0)))),
        (2, Event::Answered { term: Term(3), answer: Answer::Dead }),
    ];
    assert!(run(State::new(config(2, false)), events).1.is_empty());
}

#[test]
fn the_lease_counts_from_when_renewals_were_first_read() {
    let start = State::new(config(2, false));
    let still = vec![(0, Event::RowRead(Some(row(1, 3, 7)))), (4999, Event::RowRead(Some(row(1, 3, 7))))];
    assert!(matches!(run(start.clone(), still).1.as_slice(), [Action::AskStatus(_)]));
    let out = vec![(0, Event::RowRead(Some(row(1, 3, 7)))), (5000, Event::RowRead(Some(row(1, 3, 7))))];
    assert_eq!(claim_of(&run(start.clone(), out).1).how, Began::Lease);
    let moved = vec![
        (0, Event::RowRead(Some(row(1, 3, 7)))),
        (4000, Event::RowRead(Some(row(1, 3, 8)))),
        (8999, Event::RowRead(Some(row(1, 3, 8)))),
    ];
    assert!(matches!(run(start, moved).1.as_slice(), [Action::AskStatus(_)]));
}

#[test]
fn after_a_step_down_only_the_successor_claims_within_the_hold() {
    let answer =
        |n| Event::Answered { term: Term(3), answer: Answer::SteppedDown { successor: Some(id(n)), hold: at(2000) } };
    let seen = |ms| (ms, Event::RowRead(Some(row(1, 3, 7))));
    let mine = run(State::new(config(2, false)), vec![seen(0), (1, answer(2))]).1;
    assert_eq!(claim_of(&mine).how, Began::StepDown);
    let early = run(State::new(config(2, false)), vec![seen(0), (1, answer(4)), seen(1999), (2000, answer(4))]).1;
    assert!(early.is_empty());
    let late = run(State::new(config(2, false)), vec![seen(0), (1, answer(4)), seen(2000), (2001, answer(4))]).1;
    assert_eq!(claim_of(&late).how, Began::StepDown);
}

#[test]
fn a_leader_that_cannot_prove_its_lease_stops_before_others_may_claim() {
    let state = leading(1, 1);
    assert!(decide(&state, Event::Tick, at(3999)).1.is_empty());
    let (lost, actions) = decide(&state, Event::Tick, at(4000));
    assert_eq!(actions, [Action::StopLeading { flush: false }]);
    assert_eq!(lost.role(), Role::SteppingDown);
    assert_eq!(decide(&lost, Event::Drained, at(4100)).0.role(), Role::Candidate);
    let (renewed, _) = decide(&state, Event::Renewed { sent_at: at(3000) }, at(3500));
    assert!(decide(&renewed, Event::Tick, at(6999)).1.is_empty());
}

#[test]
fn a_fenced_leader_stops_without_a_flush() {
    let (_, actions) = decide(&leading(1, 1), Event::Fenced, at(10));
    assert_eq!(actions, [Action::StopLeading { flush: false }]);
}

#[test]
fn step_down_then_successor_then_candidate() {
    let successor = Some(Candidate { instance_id: id(2), address: "http://m2".into() });
    let (state, actions) = decide(&leading(1, 1), Event::StepDownAsked { successor: successor.clone() }, at(10));
    assert_eq!(actions, [Action::StopLeading { flush: true }]);
    assert_eq!(state.held_term(), None, "it renews no more");
    let (state, _) = decide(&state, Event::Drained, at(20));
    assert_eq!(state.phase, Phase::SteppedDown { term: Term(1), successor });
    let (state, _) = decide(&state, Event::RowRead(Some(row(2, 2, 0))), at(30));
    assert_eq!(state.role(), Role::Candidate);
    assert_eq!(state.leader().map(|leader| leader.instance_id), Some(id(2)));
}

#[test]
fn in_a_hand_over_the_row_is_looked_at_closely() {
    let (state, _) = decide(&leading(1, 1), Event::StepDownAsked { successor: None }, at(10));
    let (state, _) = decide(&state, Event::Drained, at(20));
    let (state, _) = decide(&state, Event::RowRead(Some(row(1, 1, 0))), at(30));
    assert!(decide(&state, Event::Tick, at(79)).1.is_empty());
    assert_eq!(decide(&state, Event::Tick, at(80)).1, [Action::ReadRow]);
    let watching = vec![
        (0, Event::RowRead(Some(row(1, 3, 7)))),
        (5, Event::Answered { term: Term(3), answer: Answer::SteppedDown { successor: Some(id(4)), hold: at(2000) } }),
    ];
    let (state, _) = run(State::new(config(2, false)), watching);
    assert_eq!(decide(&state, Event::Tick, at(55)).1, [Action::ReadRow]);
}

#[test]
fn a_stepped_down_leader_without_a_successor_leads_again_when_the_lease_has_run_out() {
    let (state, _) = decide(&leading(1, 1), Event::StepDownAsked { successor: None }, at(10));
    let (state, _) = decide(&state, Event::Drained, at(20));
    let (state, _) = decide(&state, Event::RowRead(Some(row(1, 1, 0))), at(30));
    assert_eq!(state.role(), Role::SteppedDown);
    let (state, actions) = decide(&state, Event::RowRead(Some(row(1, 1, 0))), at(5030));
    assert_eq!((state.role(), actions), (Role::Candidate, vec![Action::ReadRow]));
    let (_, actions) = decide(&state, Event::RowRead(Some(row(1, 1, 0))), at(5040));
    let claim = claim_of(&actions);
    assert_eq!((claim.how, claim.end_sessions), (Began::Revert, false));
}

#[test]
fn sigterm_releases_what_is_held_and_only_that() {
    let (state, actions) = decide(&leading(1, 4), Event::Terminate, at(10));
    assert_eq!(actions, [Action::StopLeading { flush: true }]);
    let (_, actions) = decide(&state, Event::Drained, at(20));
    assert_eq!(actions, [Action::Release(Term(4), Ending::Done), Action::Exit(Ending::Done)]);
    let (_, actions) = decide(&State::new(config(1, false)), Event::Terminate, at(10));
    assert_eq!(actions, [Action::Exit(Ending::Done)]);
}

#[test]
fn a_released_row_is_claimed_with_consent() {
    let released = Row { released: true, ..row(1, 3, 7) };
    let claim = claim_of(&run(State::new(config(2, false)), vec![(0, Event::RowRead(Some(released)))]).1);
    assert_eq!((claim.how, claim.end_sessions, claim.floor), (Began::Released, false, Term(3)));
}

#[test]
fn a_failed_take_over_releases_the_row_and_ends() {
    let events = vec![
        (0, Event::RowRead(None)),
        (1, Event::ClaimEnded(ClaimEnd::Won { term: Term(1), sent_at: at(0) })),
        (2, Event::TakeOverFailed),
    ];
    let (_, actions) = run(State::new(config(1, false)), events);
    assert_eq!(actions, [Action::Release(Term(1), Ending::TakeOverFailed), Action::Exit(Ending::TakeOverFailed)]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let any_row = (1u128..4, 1i64..4, 0i64..3, any::<bool>())
        .prop_map(|(owner, term, renewals, released)| Row { released, ..row(owner, term, renewals) });
    prop_oneof![
        Just(Event::Tick),
        prop::option::of(any_row).prop_map(Event::RowRead),
        (1i64..4).prop_map(|term| Event::Answered { term: Term(term), answer: Answer::Dead }),
        (1i64..4).prop_map(|term| Event::Answered { term: Term(term), answer: Answer::Silent }),
        Just(Event::AskEnded(AskEnd::Consented)),
        Just(Event::AskEnded(AskEnd::Failed)),
        Just(Event::ClaimEnded(ClaimEnd::Lost)),
        (4i64..9).prop_map(|term| Event::ClaimEnded(ClaimEnd::Won { term: Term(term), sent_at: at(0) })),
        Just(Event::Fenced),
        Just(Event::TookOver),
        Just(Event::TakeOverFailed),
        Just(Event::Drained),
        Just(Event::StepDownAsked { successor: None }),
        Just(Event::Terminate),
    ]
}

proptest! {
    /// Whatever happens: a term is held only after a claim was won, a claim is tried only by a candidate and never on
    /// top of one under way, and a member that ends does nothing any more.
    #[test]
    fn whatever_happens(events in prop::collection::vec((any_event(), 0u64..3000), 1..80)) {
        let mut state = State::new(config(1, true));
        let mut now = 0;
        for (event, passed) in events {
            now += passed;
            let (next, actions) = decide(&state, event.clone(), at(now));
            let claims = actions.iter().filter(|action| matches!(action, Action::Claim(_))).count();
            prop_assert!(claims == 0 || (next.phase == Phase::Candidate(Waiting::Claiming) && claims == 1));
            prop_assert!(claims == 0 || state.phase != Phase::Candidate(Waiting::Claiming));
            if state.held_term().is_none() && next.held_term().is_some() {
                let won = matches!(event, Event::ClaimEnded(ClaimEnd::Won { .. }));
                prop_assert!(won);
            }
            if state.phase == Phase::Gone {
                prop_assert!(actions.is_empty() && next.phase == Phase::Gone);
            }
            state = next;
        }
    }
}
