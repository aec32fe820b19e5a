//! The rules of leadership, one test each; whatever happens in random order is in `property`. Over 500 lines: a list.

mod property;

use pgfleet_api::controller::{Candidate, ControllerStatus, Role};

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
        revert: at(1000),
        migration_retry: at(600_000),
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
fn a_leader_that_ends_does_not_name_the_one_before_it() {
    let events = vec![
        (0, Event::RowRead(Some(row(1, 3, 7)))),
        (1, Event::Answered { term: Term(3), answer: Answer::Dead }),
        (2, Event::ClaimEnded(ClaimEnd::Won { term: Term(4), sent_at: at(1) })),
        (3, Event::TookOver),
        (4, Event::Terminate),
        (5, Event::Drained),
    ];
    let (state, _) = run(State::new(config(2, false)), events);
    assert_eq!((state.phase.clone(), state.leader()), (Phase::Gone, None));
}

#[test]
fn a_candidate_asks_for_a_step_down_once_and_only_with_the_flag() {
    let (_, actions) = run(State::new(config(2, false)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]);
    assert_eq!(actions, [Action::AskStatus(row(1, 3, 7))]);
    let (state, actions) = run(State::new(config(2, true)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]);
    assert!(matches!(actions.as_slice(), [Action::AskStepDown { leader, force: false }] if leader.term == Term(3)));
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

/// Readings of a row that never moves, every renew, and what the last one led to.
fn watching(state: State, owner: Row, from: u64, until: u64) -> (State, Vec<Action>) {
    let times = (from..=until).step_by(500);
    run(state, times.map(|ms| (ms, Event::RowRead(Some(owner.clone())))).collect())
}

#[test]
fn the_lease_counts_from_when_renewals_were_first_read() {
    let start = State::new(config(2, false));
    let (still, actions) = watching(start.clone(), row(1, 3, 7), 0, 4500);
    assert!(matches!(actions.as_slice(), [Action::AskStatus(_)]));
    let out = decide(&still, Event::RowRead(Some(row(1, 3, 7))), at(5000)).1;
    assert_eq!((claim_of(&out).how, claim_of(&out).seen.unwrap().renewals), (Began::Lease, Some(7)));
    let (moved, _) = watching(start, row(1, 3, 7), 0, 4000);
    let (_, actions) = watching(moved, row(1, 3, 8), 4500, 9000);
    assert!(matches!(actions.as_slice(), [Action::AskStatus(_)]));
}

#[test]
fn whoever_could_not_read_counts_the_lease_anew() {
    let (seen, _) = watching(State::new(config(2, false)), row(1, 3, 7), 0, 4000);
    let failed = decide(&seen, Event::ReadFailed, at(4500)).0;
    assert!(matches!(watching(failed.clone(), row(1, 3, 7), 5000, 9500).1.as_slice(), [Action::AskStatus(_)]));
    assert_eq!(claim_of(&watching(failed, row(1, 3, 7), 5000, 10000).1).how, Began::Lease);
    // The database answered after a long while: no reading failed, and none could have shown a renewal.
    let late = run(seen, vec![(7000, Event::RowRead(Some(row(1, 3, 7))))]).0;
    assert!(matches!(watching(late.clone(), row(1, 3, 7), 7500, 11500).1.as_slice(), [Action::AskStatus(_)]));
    assert_eq!(claim_of(&watching(late, row(1, 3, 7), 7500, 12000).1).how, Began::Lease);
}

#[test]
fn a_lease_that_ran_out_is_claimed_whatever_the_address_answers() {
    let mut state = State::new(config(2, false));
    for ms in (0..5000).step_by(500) {
        let seen = (ms, Event::RowRead(Some(row(1, 3, 7))));
        let holds = (ms + 1, Event::Answered { term: Term(3), answer: Answer::Holds });
        let (next, actions) = run(state, vec![seen, holds]);
        assert!(actions.is_empty(), "suspended, but its lease runs");
        state = next;
    }
    let (_, actions) = run(state, vec![(5000, Event::RowRead(Some(row(1, 3, 7))))]);
    assert_eq!(claim_of(&actions).how, Began::Lease, "suspended for ever is not headless for ever");
}

#[test]
fn whoever_is_woken_looks_at_once_and_backs_off_from_a_leader_that_lives() {
    let (state, _) = run(State::new(config(2, false)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]);
    let (state, actions) = decide(&state, Event::Woken, at(10));
    assert_eq!(actions, [Action::ReadRow]);
    let mut next_reads = std::collections::BTreeSet::new();
    let (mut state, _) = decide(&state, Event::RowRead(Some(row(1, 3, 7))), at(11));
    for _ in 0..20 {
        state = decide(&state, Event::Answered { term: Term(3), answer: Answer::Holds }, at(12)).0;
        let wait = state.next_read - at(12);
        assert!((at(375)..at(625)).contains(&wait), "{wait:?}");
        next_reads.insert(wait);
    }
    assert!(next_reads.len() > 5, "no jitter in {next_reads:?}");
    let (asking, _) = run(State::new(config(2, true)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]);
    assert!(decide(&asking, Event::Woken, at(1)).1.is_empty(), "one thing at a time");
}

#[test]
fn after_a_step_down_only_the_successor_claims_within_the_hold() {
    let answer =
        |n| Event::Answered { term: Term(3), answer: Answer::SteppedDown { successor: Some(id(n)), hold: at(2000) } };
    let seen = |ms| (ms, Event::RowRead(Some(row(1, 3, 7))));
    let mine = run(State::new(config(2, false)), vec![seen(0), (1, answer(2))]).1;
    assert_eq!(claim_of(&mine).how, Began::StepDown);
    let early = run(State::new(config(2, false)), vec![seen(0), (1, answer(4)), seen(1500), (2000, answer(4))]).1;
    assert!(early.is_empty());
    let late = run(State::new(config(2, false)), vec![seen(0), (1, answer(4)), seen(2000), (2001, answer(4))]).1;
    assert_eq!(claim_of(&late).how, Began::StepDown);
}

#[test]
fn a_leader_that_cannot_prove_its_lease_is_suspended_until_it_can() {
    let state = leading(1, 1);
    assert_eq!(decide(&state, Event::Tick, at(3999)).0.role(), Role::Leader);
    let (suspended, actions) = decide(&state, Event::Tick, at(4000));
    assert_eq!((suspended.role(), suspended.held_term()), (Role::Suspended, Some(Term(1))), "it renews on");
    assert!(actions.is_empty(), "it keeps its tasks");
    assert_eq!(suspended.proved_until(), Some(at(4000)));
    let (late, _) = decide(&suspended, Event::Renewed { sent_at: at(100) }, at(4500));
    assert_eq!(late.role(), Role::Suspended, "an old renewal proves nothing now");
    let (back, actions) = decide(&suspended, Event::Renewed { sent_at: at(60_000) }, at(60_005));
    assert_eq!((back.role(), back.held_term()), (Role::Leader, Some(Term(1))));
    assert!(actions.is_empty());
    let (lost, actions) = decide(&suspended, Event::Fenced, at(60_000));
    assert_eq!(actions, [Action::StopLeading { flush: false }]);
    assert_eq!(decide(&lost, Event::Drained, at(60_010)).0.role(), Role::Candidate);
}

#[test]
fn a_suspended_leader_steps_down_when_it_is_asked_and_ends_when_it_is_told() {
    let suspended = decide(&leading(1, 1), Event::Tick, at(4000)).0;
    for (event, role) in
        [(Event::StepDownAsked { successor: None }, Role::SteppedDown), (Event::Terminate, Role::SteppedDown)]
    {
        let (stopping, actions) = decide(&suspended, event, at(4100));
        assert_eq!(actions, [Action::StopLeading { flush: true }]);
        assert_eq!(decide(&stopping, Event::Drained, at(4200)).0.role(), role);
    }
}

#[test]
fn a_take_over_goes_on_while_its_lease_is_not_proved_and_serves_only_when_it_is() {
    let won = Event::ClaimEnded(ClaimEnd::Won { term: Term(1), sent_at: at(0) });
    let (state, _) = run(State::new(config(1, false)), vec![(0, Event::RowRead(None)), (1, won), (9000, Event::Tick)]);
    assert_eq!(state.role(), Role::TakingOver);
    let (state, _) = decide(&state, Event::TookOver, at(9001));
    assert_eq!(state.role(), Role::Suspended);
    assert_eq!(decide(&state, Event::Renewed { sent_at: at(9002) }, at(9003)).0.role(), Role::Leader);
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
    assert_eq!(state.phase, Phase::SteppedDown { term: Term(1), successor, since: at(20) });
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
fn a_stepped_down_leader_that_nobody_succeeds_claims_again() {
    let successor = Some(Candidate { instance_id: id(2), address: "http://m2".into() });
    for successor in [successor, None] {
        let (state, _) = decide(&leading(1, 1), Event::StepDownAsked { successor }, at(10));
        let (state, actions) = decide(&state, Event::Drained, at(20));
        assert_eq!(actions, [Action::ReadRow]);
        let (state, actions) = decide(&state, Event::RowRead(Some(row(1, 1, 0))), at(1019));
        assert_eq!((state.role(), actions), (Role::SteppedDown, vec![]));
        let (_, actions) = decide(&state, Event::RowRead(Some(row(1, 1, 0))), at(1020));
        let claim = claim_of(&actions);
        assert_eq!((claim.how, claim.end_sessions), (Began::Revert, false));
        let barred = decide(&state, Event::MayLead(false), at(1019)).0;
        assert!(decide(&barred, Event::RowRead(Some(row(1, 1, 0))), at(1020)).1.is_empty(), "it may not lead any more");
        assert_eq!(decide(&state, Event::Woken, at(1000)).1, [Action::ReadRow]);
    }
}

#[test]
fn an_operator_has_a_candidate_ask_and_the_wish_lapses() {
    let start = || run(State::new(config(2, false)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]).0;
    let wish = Event::TakeOverAsked { force: true, until: at(3000) };
    let (asked, actions) = decide(&start(), wish.clone(), at(10));
    assert_eq!(actions, [Action::ReadRow]);
    let (asking, actions) = decide(&asked, Event::RowRead(Some(row(1, 3, 7))), at(11));
    assert!(matches!(actions.as_slice(), [Action::AskStepDown { force: true, .. }]));
    assert!(matches!(
        decide(&asked, Event::RowRead(Some(row(1, 3, 8))), at(3000)).1.as_slice(),
        [Action::AskStatus(_)]
    ));
    // A leader that is not that leader is asked once; its successor is another one.
    let (state, actions) = decide(&asking, Event::AskEnded(AskEnd::NotThatLeader), at(20));
    assert_eq!(actions, [Action::ReadRow]);
    assert!(matches!(decide(&state, Event::RowRead(Some(row(1, 3, 8))), at(21)).1.as_slice(), [Action::AskStatus(_)]));
    assert!(matches!(
        decide(&state, Event::RowRead(Some(row(4, 4, 0))), at(21)).1.as_slice(),
        [Action::AskStepDown { leader, .. }] if leader.term == Term(4)
    ));
    let (refused, actions) = decide(&asking, Event::AskEnded(AskEnd::MigrationFailedBefore), at(20));
    assert_eq!((refused.role(), refused.wish, actions), (Role::Candidate, None, vec![]));
    let (refused, actions) = decide(&asking, Event::AskEnded(AskEnd::Unauthorized), at(20));
    assert_eq!((refused.role(), actions), (Role::Candidate, vec![]), "only a member that was started for it ends");
    // A wish that comes while its term ends is kept for the successor's.
    let (state, _) = decide(&leading(2, 3), Event::StepDownAsked { successor: None }, at(10));
    let (state, _) = run(state, vec![(11, wish), (12, Event::Drained)]);
    let (state, actions) = decide(&state, Event::RowRead(Some(row(4, 4, 0))), at(20));
    assert_eq!((state.role(), actions), (Role::Candidate, vec![Action::ReadRow]));
}

#[test]
fn consent_that_comes_late_is_not_taken_for_a_later_leaders() {
    let asking = || run(State::new(config(2, true)), vec![(0, Event::RowRead(Some(row(1, 3, 7))))]).0;
    let wish = Event::TakeOverAsked { force: true, until: at(9000) };
    let asking_for_another = decide(&asking(), wish, at(10)).0;
    for asking in [asking(), asking_for_another] {
        let consented = Event::AskEnded(AskEnd::Consented);
        assert_eq!(claim_of(&decide(&asking, consented.clone(), at(20)).1).how, Began::StepDown);
        // Nobody came in time, so it leads again; then its answer of before arrives.
        let (late, actions) = run(asking, vec![(2000, Event::RowRead(Some(row(1, 4, 0)))), (2001, consented)]);
        assert_eq!((late.role(), actions), (Role::Candidate, vec![Action::ReadRow]));
        let (_, actions) = decide(&late, Event::RowRead(Some(row(1, 4, 0))), at(2002));
        assert!(matches!(actions.as_slice(), [Action::AskStepDown { leader, .. }] if leader.term == Term(4)));
    }
}

#[test]
fn a_program_that_may_not_lead_claims_and_asks_nothing() {
    let barred = decide(&State::new(config(2, true)), Event::MayLead(false), at(0)).0;
    let released = Row { released: true, ..row(1, 3, 7) };
    for seen in [None, Some(released), Some(row(1, 3, 7)), Some(row(2, 3, 7))] {
        assert!(decide(&barred, Event::RowRead(seen), at(1)).1.is_empty());
    }
    let released = Row { released: true, ..row(1, 3, 7) };
    let late = vec![(1, Event::RowRead(Some(released))), (2, Event::HistoryRead { newest: Term(3), failed: vec![] })];
    assert!(run(barred.clone(), late).1.is_empty(), "what it had asked for before");
    let dead = vec![
        (1, Event::RowRead(Some(row(1, 3, 7)))),
        (2, Event::Answered { term: Term(3), answer: Answer::Dead }),
        (60_000, Event::RowRead(Some(row(1, 3, 7)))),
    ];
    assert!(run(barred.clone(), dead).1.is_empty());
    // It was let in while it asked for the history, and is barred when the answer comes.
    let asked = vec![
        (1, Event::RowRead(Some(Row { released: true, ..row(1, 3, 7) }))),
        (2, Event::HistoryRead { newest: Term(3), failed: Vec::new() }),
    ];
    assert!(run(barred.clone(), asked).1.is_empty());
    let let_in = decide(&barred, Event::MayLead(true), at(3)).0;
    assert!(matches!(
        decide(&let_in, Event::RowRead(Some(row(1, 3, 7))), at(4)).1.as_slice(),
        [Action::AskStepDown { .. }]
    ));
}

#[test]
fn nobody_steps_down_for_a_migration_that_failed_a_short_while_ago() {
    let past = |term, migration_failed, target| PastTerm { term: Term(term), migration_failed, target };
    let history =
        [past(6, false, "b"), past(5, true, "c"), past(4, true, "d"), past(3, false, "b"), past(2, true, "e")];
    assert_eq!(failed_targets(Term(6), history), ["c", "d"]);
    assert_eq!(failed_targets(Term(7), history), [""; 0], "another term came in between");
    assert_eq!(failed_targets(Term(6), history[1..].to_vec()), ["c", "d"]);

    let read = Event::HistoryRead { newest: Term(6), failed: vec!["c".to_owned()] };
    let (state, actions) = decide(&leading(1, 6), read.clone(), at(1000));
    assert!(actions.is_empty());
    assert!(state.refuses(Some("c"), false, at(600_999)));
    assert!(!state.refuses(Some("c"), true, at(1001)), "somebody insists");
    assert!(!state.refuses(Some("c"), false, at(601_000)), "long ago");
    assert!(!state.refuses(Some("d"), false, at(1001)) && !state.refuses(None, false, at(1001)));
    assert!(!decide(&leading(1, 7), read, at(1000)).0.refuses(Some("c"), false, at(1001)), "of another term");
}

#[test]
fn a_row_that_a_failed_migration_released_is_left_to_others_for_a_lease() {
    let released = Row { released: true, ..row(1, 3, 7) };
    let mine = decide(&State::new(config(2, false)), Event::Pending(Some("c".to_owned())), at(0)).0;
    let (state, actions) = decide(&mine, Event::RowRead(Some(released.clone())), at(0));
    assert_eq!(actions, [Action::ReadHistory]);
    let told = |failed: &[&str]| Event::HistoryRead {
        newest: Term(3),
        failed: failed.iter().map(|target| (*target).to_owned()).collect(),
    };
    assert_eq!(claim_of(&decide(&state, told(&["other"]), at(1)).1).how, Began::Released);
    let (state, actions) = decide(&state, told(&["c"]), at(1));
    assert!(actions.is_empty());
    let (state, actions) = watching(state, released.clone(), 500, 4500);
    assert_eq!(actions, [Action::ReadHistory]);
    assert_eq!(claim_of(&decide(&state, Event::RowRead(Some(released)), at(5000)).1).how, Began::Released);
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

#[test]
fn an_outbid_leader_renews_and_if_the_row_is_its_own_claims_above_what_the_agent_saw() {
    let (state, actions) = decide(&leading(1, 3), Event::Outbid { term: Term(9) }, at(100));
    assert_eq!((state.role(), actions), (Role::Leader, vec![Action::Renew]));
    let (state, actions) = decide(&state, Event::Outbid { term: Term(8) }, at(101));
    assert!(actions.is_empty(), "it asks already");
    let (state, actions) = decide(&state, Event::Renewed { sent_at: at(99) }, at(102));
    assert_eq!((state.role(), actions), (Role::Leader, vec![]), "sent before it knew");
    let (state, actions) = decide(&state, Event::Renewed { sent_at: at(103) }, at(104));
    assert_eq!((state.role(), actions), (Role::SteppingDown, vec![Action::StopLeading { flush: true }]));
    let (state, actions) = decide(&state, Event::Drained, at(110));
    assert_eq!(actions, [Action::ReadRow]);
    let (_, actions) = decide(&state, Event::RowRead(Some(row(1, 3, 8))), at(111));
    let claim = claim_of(&actions);
    assert_eq!((claim.how, claim.floor, claim.end_sessions), (Began::Revert, Term(9), false));
}

#[test]
fn an_outbid_leader_whose_row_is_gone_ends_without_a_flush() {
    let (state, _) = decide(&leading(1, 3), Event::Outbid { term: Term(4) }, at(100));
    let (state, actions) = decide(&state, Event::Fenced, at(101));
    assert_eq!(actions, [Action::StopLeading { flush: false }]);
    assert_eq!(state.outbid, None);
    let (state, _) = run(state, vec![(102, Event::Drained), (103, Event::RowRead(Some(row(2, 4, 0))))]);
    assert_eq!((state.role(), state.leader().map(|leader| leader.term)), (Role::Candidate, Some(Term(4))));
}

#[test]
fn an_agents_term_counts_only_for_a_leader_and_only_within_reason() {
    for (term, highest) in [(3, 3), (2, 3), (1_000_003, 1_000_003), (1_000_004, 3)] {
        let (state, actions) = decide(&leading(1, 3), Event::Outbid { term: Term(term) }, at(100));
        assert_eq!((state.highest, actions.len()), (Term(highest), usize::from(highest > 3)), "{term}");
    }
    let seen = Event::Outbid { term: Term(9) };
    let (stepping, _) = decide(&leading(1, 3), Event::StepDownAsked { successor: None }, at(10));
    let (state, actions) = decide(&stepping, seen.clone(), at(11));
    assert_eq!((state.highest, &state.phase, actions), (Term(9), &stepping.phase, vec![]), "for a claim of its own");
    let stepped_down = decide(&stepping, Event::Drained, at(20)).0;
    let gone = decide(&State::new(config(1, false)), Event::Terminate, at(1)).0;
    for state in [State::new(config(1, false)), stepped_down, gone] {
        assert_eq!(decide(&state, seen.clone(), at(21)), (state, vec![]));
    }
    let taking = vec![
        (0, Event::RowRead(None)),
        (1, Event::ClaimEnded(ClaimEnd::Won { term: Term(3), sent_at: at(0) })),
        (2, seen),
    ];
    let (state, actions) = run(State::new(config(1, false)), taking);
    assert_eq!((state.role(), actions), (Role::TakingOver, vec![Action::Renew]));
    let (state, _) = decide(&state, Event::TookOver, at(3));
    assert_eq!(state.role(), Role::Leader, "the renewal decides");
}

#[test]
fn a_row_that_fell_tells_of_lost_terms_once_and_is_claimed_above_them() {
    let (state, _) = run(State::new(config(2, false)), vec![(0, Event::RowRead(Some(row(1, 7, 1))))]);
    assert_eq!(state.lost_term(Some(&row(1, 7, 2))), None);
    assert_eq!(state.lost_term(Some(&row(3, 8, 0))), None);
    assert_eq!(state.lost_term(None), Some(Term(7)));
    assert_eq!(state.lost_term(Some(&row(3, 5, 9))), Some(Term(7)));
    let fell =
        vec![(500, Event::RowRead(Some(row(3, 5, 9)))), (501, Event::Answered { term: Term(5), answer: Answer::Dead })];
    let (state, actions) = run(state, fell);
    assert_eq!(state.lost_term(Some(&row(3, 5, 9))), None, "it is known");
    let claim = claim_of(&actions);
    assert_eq!((claim.floor, claim.seen.map(|seen| seen.term)), (Term(7), Some(Term(5))));
    assert_eq!(State::new(config(2, false)).lost_term(None), None, "a new process knows of nothing");
    // Its own row of an earlier term came back: it was that process's, and is claimed above all it ever held.
    let lost = vec![(10, Event::Fenced), (20, Event::Drained), (21, Event::RowRead(Some(row(1, 5, 2))))];
    assert_eq!(claim_of(&run(leading(1, 9), lost).1).floor, Term(9));
}

#[test]
fn nobody_is_sent_to_a_leader_of_a_lost_term() {
    let (state, _) = run(State::new(config(2, false)), vec![(0, Event::RowRead(Some(row(1, 7, 1))))]);
    let heard = LeaderRef { instance_id: id(4), term: Term(9), address: "http://m4".into() };
    let (state, _) = decide(&state, Event::Heard(heard), at(1));
    assert_eq!(state.leader().map(|leader| leader.term), Some(Term(9)));
    let (state, _) = decide(&state, Event::RowRead(Some(row(3, 5, 0))), at(500));
    assert_eq!(state.leader().map(|leader| leader.instance_id), Some(id(3)));
}
