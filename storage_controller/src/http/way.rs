//! Where a request goes that this member does not execute: pure, so that it is a table of tests.

use pgfleet_api::controller::{LeaderRef, Role};
use pgfleet_api::{InstanceId, Term};

use crate::service::Standing;

/// A member that may lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Base URL of its API.
    pub(super) address: String,
    /// Its term, or for a successor that is to claim, the term that ended.
    pub(super) term: Option<Term>,
}

/// The leader of the highest term that is known, by the row or by what others said.
pub(super) fn newest<'a>(standing: &'a Standing, heard: Option<&'a LeaderRef>) -> Option<&'a LeaderRef> {
    standing.leader.iter().chain(heard).max_by_key(|leader| leader.term)
}

/// Whom to hand a request on to; nobody while this member is in a hand-over itself.
pub(super) fn target(standing: &Standing, heard: Option<&LeaderRef>, me: InstanceId) -> Option<Target> {
    match standing.role {
        Role::Candidate | Role::SteppedDown => {}
        Role::TakingOver | Role::Leader | Role::Suspended | Role::SteppingDown => return None,
    }
    let leader = newest(standing, heard)
        .filter(|leader| leader.instance_id != me && standing.term.is_none_or(|ended| leader.term > ended));
    let successor = standing.successor.as_ref().filter(|_| standing.role == Role::SteppedDown);
    match (leader, successor) {
        (Some(leader), _) => Some(Target { address: leader.address.clone(), term: Some(leader.term) }),
        // Until it leads it says "not executed", and in the next moment it leads.
        (None, Some(successor)) => Some(Target { address: successor.address.clone(), term: standing.term }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use pgfleet_api::controller::Candidate;

    use super::*;

    fn leader(term: i64, address: &str) -> LeaderRef {
        LeaderRef { instance_id: InstanceId::generate(), term: Term(term), address: address.to_owned() }
    }

    fn to(standing: &Standing, heard: Option<&LeaderRef>) -> Option<String> {
        target(standing, heard, InstanceId::generate()).map(|target| target.address)
    }

    #[test]
    fn a_candidate_goes_to_the_highest_term_it_knows() {
        let (row, named) = (leader(3, "row"), leader(4, "named"));
        let standing = Standing { role: Role::Candidate, term: None, leader: Some(row.clone()), successor: None };
        assert_eq!(to(&standing, None).as_deref(), Some("row"));
        assert_eq!(to(&standing, Some(&named)).as_deref(), Some("named"));
        assert_eq!(to(&standing, Some(&leader(2, "old"))).as_deref(), Some("row"));
        assert_eq!(target(&standing, None, row.instance_id), None, "never to itself");
        let headless = Standing { leader: None, ..standing };
        assert_eq!(to(&headless, None), None);
    }

    #[test]
    fn whoever_stepped_down_goes_to_its_successor_until_a_leader_is_known() {
        let successor = Candidate { instance_id: InstanceId::generate(), address: "successor".to_owned() };
        let standing =
            Standing { role: Role::SteppedDown, term: Some(Term(5)), leader: None, successor: Some(successor) };
        assert_eq!(to(&standing, None).as_deref(), Some("successor"));
        assert_eq!(to(&standing, Some(&leader(5, "old"))).as_deref(), Some("successor"), "the term that ended");
        assert_eq!(to(&standing, Some(&leader(6, "new"))).as_deref(), Some("new"));
        assert_eq!(to(&Standing { successor: None, ..standing }, None), None);
    }

    #[test]
    fn in_a_hand_over_nobody_is_asked() {
        for role in [Role::TakingOver, Role::Leader, Role::Suspended, Role::SteppingDown] {
            let standing = Standing { role, term: Some(Term(5)), leader: Some(leader(5, "a")), successor: None };
            assert_eq!(to(&standing, Some(&leader(4, "b"))), None, "{role:?}");
        }
    }
}
