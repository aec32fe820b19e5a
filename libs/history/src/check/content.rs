//! A generation has one content, whoever shows it and whenever.
//!
//! After commits were lost on purpose a generation may be minted a second time with other content. A conflict is let pass
//! only if the generation is above all that was seen before the copy was taken, and one of the two contents was asked for
//! before the copy was put back.

use std::collections::HashMap;

use pgfleet_api::{ComputeId, Generation, SpecHash};

use super::sightings::{self, Sighting};
use super::{Facts, Options};
use crate::report::{Finding, Findings};

const NAME: &str = "content";
const SAYS: &str = "a generation has the same content everywhere";

pub(super) fn check(facts: &Facts<'_>, _: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let all = sightings::all(facts);
    let mut first: HashMap<(&ComputeId, Generation), Sighting<'_>> = HashMap::new();
    for seen in &all {
        found.fact();
        let known = *first.entry((seen.compute_id, seen.generation)).or_insert(*seen);
        if known.spec_hash == seen.spec_hash {
            continue;
        }
        if may_be_minted_again(facts, &all, &known, seen) {
            found.exempt();
            continue;
        }
        let what = format!(
            "{} {} has one content by {} and another by {}",
            seen.compute_id, seen.generation, known.by, seen.by
        );
        found.violation([known.line, seen.line], what);
    }
    found.end()
}

fn may_be_minted_again(facts: &Facts<'_>, all: &[Sighting<'_>], one: &Sighting<'_>, other: &Sighting<'_>) -> bool {
    facts.losses.all().iter().any(|loss| {
        let kept = all.iter().filter(|seen| seen.compute_id == one.compute_id && seen.at_us < loss.since_us);
        let kept = kept.map(|seen| seen.generation).max();
        let asked_before = |hash: &SpecHash| {
            let mut writes = facts.ops.iter().filter(|op| op.compute_id == one.compute_id && op.writes() == Some(hash));
            writes.any(|op| op.called_us <= loss.until_us)
        };
        kept.is_none_or(|kept| one.generation > kept)
            && other.at_us >= loss.until_us
            && (asked_before(one.spec_hash) || asked_before(other.spec_hash))
    })
}
