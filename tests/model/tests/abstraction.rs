//! The finite forms do not lie: a decision on the form is the decision on the state, and a world goes on as its canonical
//! form does.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_api::controller::Candidate;
use pgfleet_domain::leadership::{Answer, AskEnd, ClaimEnd, Event, Phase, State, Waiting, decide};
use pgfleet_model::mind::{Inst, LeaderRow, Mind, NOW, TARGET, TICK, address_of, config, id_of};
use pgfleet_model::moves::moves;
use pgfleet_model::scene::Scene;
use pgfleet_model::step::step;
use pgfleet_model::world::World;
use proptest::prelude::*;

const ME: Inst = Inst { slot: 1, life: 2 };

fn any_inst() -> impl Strategy<Value = Inst> {
    (0u8..3, 1u8..4).prop_map(|(slot, life)| Inst { slot, life })
}

fn any_event() -> impl Strategy<Value = Event> {
    let row = (1u8..4, any_inst(), 0u8..2, any::<bool>())
        .prop_map(|(term, owner, renewals, released)| LeaderRow { term, owner, renewals, released }.row());
    let answer = prop_oneof![
        Just(Answer::Holds),
        Just(Answer::Dead),
        Just(Answer::Silent),
        prop::option::of(any_inst()).prop_map(|who| Answer::SteppedDown { successor: who.map(id_of), hold: TICK }),
    ];
    let candidate = |who: Inst| Candidate { instance_id: id_of(who), address: address_of(who.slot) };
    prop_oneof![
        prop::option::of(row).prop_map(Event::RowRead),
        (1i64..4, answer).prop_map(|(term, answer)| Event::Answered { term: Term(term), answer }),
        prop_oneof![Just(AskEnd::Consented), Just(AskEnd::Failed), Just(AskEnd::NotThatLeader)]
            .prop_map(Event::AskEnded),
        prop_oneof![Just(ClaimEnd::Lost), Just(ClaimEnd::Failed)].prop_map(Event::ClaimEnded),
        (1i64..4).prop_map(|term| Event::ClaimEnded(ClaimEnd::Won { term: Term(term), sent_at: Duration::ZERO })),
        Just(Event::Renewed { sent_at: Duration::ZERO }),
        (1i64..6).prop_map(|term| Event::Outbid { term: Term(term) }),
        prop::option::of(any_inst()).prop_map(move |who| Event::StepDownAsked { successor: who.map(candidate) }),
        (1i64..4, any::<bool>()).prop_map(|(newest, failed)| Event::HistoryRead {
            newest: Term(newest),
            failed: if failed { vec![TARGET.to_owned()] } else { Vec::new() },
        }),
        any::<bool>().prop_map(|pending| Event::Pending(pending.then(|| TARGET.to_owned()))),
        prop_oneof![
            Just(Event::Tick),
            Just(Event::Woken),
            Just(Event::ReadFailed),
            Just(Event::Fenced),
            Just(Event::TookOver),
            Just(Event::TakeOverFailed),
            Just(Event::Drained),
            Just(Event::Terminate),
        ],
    ]
}

/// What was sent before `now` was sent in this very tick, or one before: so late an answer is the latest that counts; a wish lapses in a tick.
fn timed(event: Event, now: Duration, ago: u32) -> Event {
    let sent_at = now - TICK * ago;
    match event {
        Event::ClaimEnded(ClaimEnd::Won { term, .. }) => Event::ClaimEnded(ClaimEnd::Won { term, sent_at }),
        Event::Renewed { .. } => Event::Renewed { sent_at },
        other => other,
    }
}

/// A claim is won, and a step-down answered, only by who waits for it.
fn can_happen(event: &Event, state: &State) -> bool {
    match event {
        Event::ClaimEnded(_) => state.phase == Phase::Candidate(Waiting::Claiming),
        Event::AskEnded(_) => state.phase == Phase::Candidate(Waiting::Asking),
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A state lives through events and hours of its own clock; beside it lives its form, made anew at each step. They say
    /// the same, and so do their orders.
    #[test]
    fn a_decision_on_the_form_is_one_on_the_state(
        takes_over in any::<bool>(),
        events in prop::collection::vec((any_event(), 0u32..3, 0u32..2), 1..60),
    ) {
        let mut state = State::new(config(ME, takes_over));
        let mut now = NOW;
        for (event, passed, ago) in events {
            let before = Mind::of(&state, now);
            prop_assert_eq!(Mind::of(&before.state(), NOW), before, "the form of the form");
            let mut aged = before;
            for _ in 0..passed {
                aged = aged.older();
            }
            now += TICK * passed;
            prop_assert_eq!(Mind::of(&state, now), aged, "time");
            if !can_happen(&event, &state) {
                continue;
            }
            // A member of the model may look at the row whenever it wants.
            state.next_read = now;
            let (next, actions) = decide(&state, timed(event.clone(), now, ago), now);
            let (of_form, of_forms_actions) = decide(&aged.state(), timed(event, NOW, ago), NOW);
            prop_assert_eq!(Mind::of(&of_form, NOW), Mind::of(&next, now));
            prop_assert_eq!(of_forms_actions, actions);
            state = next;
        }
    }
}

fn mark(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

fn canonical(mut world: World, scene: &Scene) -> World {
    world.canon(scene);
    world
}

/// The canonical forms of everything that can come of a world, other than its own: a claim that is bound to be lost counts
/// as lost before the database says so.
fn futures(world: &World, scene: &Scene) -> BTreeSet<u64> {
    let mut next = Vec::new();
    moves(world, scene, &mut next);
    let own = mark(&canonical(world.clone(), scene));
    let futures = next.into_iter().filter_map(|taken| step(world, taken, scene));
    futures.map(|world| mark(&canonical(world, scene))).filter(|future| *future != own).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Worlds whose terms, lives and renewals grow go on as their canonical forms do.
    #[test]
    fn a_world_goes_on_as_its_canonical_form(
        which in 0..Scene::DEEP.len(),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 1..120),
    ) {
        let scene = Scene::DEEP[which];
        // A row that came back is taken for a new value of `renewals` by all who knew it: the form is coarser there.
        prop_assume!(!scene.lost_commits);
        let mut world = World::new(&scene);
        for choice in choices {
            let form = canonical(world.clone(), &scene);
            prop_assert_eq!(&canonical(form.clone(), &scene), &form, "the form of the form");
            prop_assert_eq!(futures(&world, &scene), futures(&form, &scene), "of {:?}\nand {:?}", world, form);
            let mut next = Vec::new();
            moves(&world, &scene, &mut next);
            let able: Vec<_> = next.into_iter().filter_map(|taken| step(&world, taken, &scene)).collect();
            // A few terms and renewals are enough to tell a rank from a number.
            if able.is_empty() || world.row.is_some_and(|row| row.term > 40 || row.renewals > 100) {
                break;
            }
            world = choice.get(&able).clone();
        }
    }
}
