//! Generated histories: what a well-behaved fleet would have told passes, and any one lie in it is found.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod lies;
mod load;
mod world;

use pgfleet_history::{Options, Outcome, check};
use proptest::prelude::*;

use crate::world::{Deed, World};

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0..2usize).prop_map(Deed::Write),
        4 => (0..2usize).prop_map(Deed::Read),
        2 => (0..2usize).prop_map(Deed::WriteAgain),
        2 => (0..2usize, any::<bool>()).prop_map(|(compute, happens)| Deed::Lose { compute, happens }),
        1 => (0..2usize).prop_map(Deed::Refuse),
        3 => (0..2usize).prop_map(Deed::Push),
        1 => (0..2usize).prop_map(Deed::RestartAgent),
        1 => Just(Deed::HandOver),
    ];
    prop::collection::vec(deed, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_happened_in_order_passes(deeds in deeds()) {
        let history = World::tell(&deeds);
        let report = check(&history, &Options::chaos());
        prop_assert!(report.passed(), "{report}");
        prop_assert_eq!(report.named(Outcome::NotChecked), ["journal"]);
    }

    #[test]
    fn one_lie_is_found(deeds in deeds(), lie in 0..lies::ALL.len(), at in any::<prop::sample::Index>()) {
        let mut history = lies::Told(World::tell(&deeds));
        let (invariant, lie) = lies::ALL[lie];
        lie(&mut history, at);
        let report = check(&history.0, &Options::chaos());
        prop_assert!(report.named(Outcome::Broken).contains(&invariant), "{invariant}\n{report}");
    }
}
