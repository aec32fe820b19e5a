//! What was asked last is in effect in the end, or was given up for its content.

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "applied";
const SAYS: &str = "in the end every compute has its last spec in effect, or has rejected it";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    for (line, entry) in numbered(facts.entries) {
        let Event::Final { compute_id, generation, applied_generation, rejected, .. } = &entry.event else { continue };
        if applied_generation.is_some_and(|applied| applied > *generation) {
            found.fact();
            found.violation([line], format!("{compute_id} has in effect what is not in the database"));
        } else if options.settled {
            found.fact();
            if *applied_generation != Some(*generation) && !rejected {
                let has = applied_generation.map_or_else(|| "nothing".to_owned(), |applied| applied.to_string());
                found.violation([line], format!("{compute_id} was asked for {generation} and has {has} in effect"));
            }
        }
    }
    found.nothing(if options.settled { "nobody looked in the end" } else { "what was asked may be under way" });
    found.end()
}
