//! Any events in any order: what holds whatever happens.

use proptest::prelude::*;

use super::*;

fn any_event() -> impl Strategy<Value = Event> {
    let any_row = (1u128..4, 1i64..4, 0i64..3, any::<bool>())
        .prop_map(|(owner, term, renewals, released)| Row { released, ..row(owner, term, renewals) });
    let answers = prop_oneof![
        Just(Answer::Dead),
        Just(Answer::Silent),
        Just(Answer::Holds),
        Just(Answer::SteppedDown { successor: Some(id(1)), hold: at(2000) }),
        Just(Answer::SteppedDown { successor: None, hold: at(2000) }),
    ];
    let asks = prop_oneof![
        Just(AskEnd::Consented),
        Just(AskEnd::Failed),
        Just(AskEnd::NotThatLeader),
        Just(AskEnd::MigrationFailedBefore),
    ];
    let of_the_row = prop_oneof![
        prop::option::of(any_row).prop_map(Event::RowRead),
        Just(Event::ReadFailed),
        (1i64..4).prop_map(|term| Event::HistoryRead { newest: Term(term), failed: vec!["c".to_owned()] }),
        (1i64..4, answers).prop_map(|(term, answer)| Event::Answered { term: Term(term), answer }),
        asks.prop_map(Event::AskEnded),
        Just(Event::ClaimEnded(ClaimEnd::Lost)),
        Just(Event::ClaimEnded(ClaimEnd::Failed)),
        Just(Event::ClaimEnded(ClaimEnd::Won { term: Term(0), sent_at: at(0) })),
        (0u64..3000).prop_map(|ms| Event::Renewed { sent_at: at(ms) }),
    ];
    let of_the_house = prop_oneof![
        Just(Event::Tick),
        Just(Event::Woken),
        Just(Event::HandOverSeen),
        any::<bool>().prop_map(Event::MayLead),
        prop::option::of(Just("c".to_owned())).prop_map(Event::Pending),
        any::<bool>().prop_map(|force| Event::TakeOverAsked { force, until: at(9000) }),
        Just(Event::Fenced),
        (0i64..30).prop_map(|term| Event::Outbid { term: Term(term) }),
        Just(Event::TookOver),
        Just(Event::TakeOverFailed),
        Just(Event::Drained),
        Just(Event::StepDownAsked { successor: None }),
        Just(Event::Terminate),
    ];
    prop_oneof![of_the_row, of_the_house]
}

proptest! {
    /// Whatever happens: a term is held only after a claim was won and never again once it was given up; a claim is tried
    /// only by a candidate, or by a member that stepped down, never on top of one under way and never by a program that
    /// may not lead; a suspended leader keeps its term; a member that ends does nothing any more.
    #[test]
    fn whatever_happens(events in prop::collection::vec((any_event(), 0u64..3000), 1..80)) {
        let mut state = State::new(config(1, true));
        let (mut now, mut minted) = (0, 10);
        for (event, passed) in events {
            now += passed;
            // Every claim that is won has a term of its own; a renewal was sent some time before it is answered.
            let event = if let Event::ClaimEnded(ClaimEnd::Won { .. }) = event {
                minted += 1;
                Event::ClaimEnded(ClaimEnd::Won { term: Term(minted), sent_at: at(now) })
            } else if let Event::Renewed { sent_at } = event {
                Event::Renewed { sent_at: at(now).saturating_sub(sent_at) }
            } else {
                event
            };
            let (next, actions) = decide(&state, event.clone(), at(now));
            let claims = actions.iter().filter(|action| matches!(action, Action::Claim(_))).count();
            let asks = actions.iter().filter(|action| matches!(action, Action::AskStepDown { .. })).count();
            prop_assert!(claims == 0 || (next.phase == Phase::Candidate(Waiting::Claiming) && claims == 1));
            prop_assert!(claims == 0 || state.phase != Phase::Candidate(Waiting::Claiming));
            let may_claim = matches!(state.phase, Phase::Candidate(_) | Phase::SteppedDown { .. });
            prop_assert!(claims == 0 || may_claim);
            prop_assert!(state.can_lead || claims + asks == 0);
            if let Some(term) = next.held_term() && state.held_term() != Some(term) {
                let won = matches!(event, Event::ClaimEnded(ClaimEnd::Won { .. }));
                prop_assert!(won && state.held_term().is_none());
            }
            if next.role() == Role::Leader {
                prop_assert!(state.role() == Role::Leader || next.proved_until().is_some_and(|until| at(now) < until));
            }
            if state.phase == Phase::Gone {
                prop_assert!(actions.is_empty() && next.phase == Phase::Gone);
            }
            state = next;
        }
    }
}
