//! The fence, seen from within the database: only the owner of the leader row writes, and only while it has not released it.

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "writers";
const SAYS: &str = "every row is written by the owner of the unreleased leader row";

/// A claim, a renewal and a release write these, and are the only writes without the fence.
const UNFENCED: [&str; 3] = ["cluster", "leader", "leader_history"];

pub(super) fn check(facts: &Facts<'_>, _: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    for (line, entry) in numbered(facts.entries) {
        let Event::RowWritten { table, writer, leader, term, released } = &entry.event else { continue };
        if UNFENCED.contains(&table.as_str()) {
            continue;
        }
        found.fact();
        if *writer != format!("pgfleet/{leader}") {
            found.violation([line], format!("{writer:?} writes into {table} while {leader} leads in term {term}"));
        } else if *released {
            found.violation([line], format!("{leader} writes into {table} after it released term {term}"));
        }
    }
    found.nothing("no row was watched from within the database");
    found.end()
}
