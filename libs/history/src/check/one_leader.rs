//! What members say of themselves: of one term at most one shows itself leader, and it is the one that the database names.

use std::collections::HashMap;

use pgfleet_api::controller::Role;
use pgfleet_api::{InstanceId, Term};

use super::{Facts, Options, terms};
use crate::calls::numbered;
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "one_leader";
const SAYS: &str = "at most one member shows itself leader of a term, and it is that term's owner";

pub(super) fn check(facts: &Facts<'_>, _: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let (lost, owners) = (terms::lost(facts), terms::owners(facts));
    let mut shown: HashMap<Term, (InstanceId, usize)> = HashMap::new();
    for (line, entry) in numbered(facts.entries) {
        let Event::MemberSeen { instance_id, role: Role::Leader, term } = &entry.event else { continue };
        let Some(term) = term else {
            found.violation([line], format!("{instance_id} shows itself leader of no term"));
            continue;
        };
        if lost.contains(term) {
            found.exempt();
            continue;
        }
        found.fact();
        let (first, other) = *shown.entry(*term).or_insert((*instance_id, line));
        if first != *instance_id {
            let what = format!("{first} and {instance_id} both show themselves leader of term {term}");
            found.violation([other, line], what);
        } else if let Some((owner, told)) = owners.get(term).filter(|(owner, _)| owner != instance_id) {
            let what = format!("{instance_id} shows itself leader of term {term}, which is {owner}'s");
            found.violation([*told, line], what);
        }
    }
    if shown.is_empty() {
        found.nothing("no member was seen as leader");
    }
    found.end()
}
