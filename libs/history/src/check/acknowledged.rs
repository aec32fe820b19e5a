//! No acknowledged write is lost: in the end the database has it, or a later one.

use std::collections::HashMap;

use pgfleet_api::{ComputeId, Generation, SpecHash};

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::{Answer, Event};
use crate::report::{Finding, Findings};

const NAME: &str = "acknowledged";
const SAYS: &str = "every acknowledged write, or a later one, is in the database in the end";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let ends = ends(facts);
    for op in &facts.ops {
        let (Some(asked), Some(answered)) = (op.writes(), op.answered) else { continue };
        let Answer::Written { generation } = answered.answer else { continue };
        if facts.losses.touch(op) {
            found.exempt();
            continue;
        }
        let Some((line, last, hash)) = ends.get(op.compute_id) else {
            if options.expect_end {
                let what =
                    format!("{} {generation} is acknowledged and nobody looked for it in the end", op.compute_id);
                found.violation(op.lines(), what);
            }
            continue;
        };
        found.fact();
        let lines: Vec<usize> = op.lines().into_iter().chain([*line]).collect();
        if last < generation {
            let what = format!("{} {generation} is acknowledged and the database ends with {last}", op.compute_id);
            found.violation(lines, what);
        } else if last == generation && *hash != asked {
            let what = format!("{} {generation} is acknowledged with other content than it ends with", op.compute_id);
            found.violation(lines, what);
        }
    }
    found.nothing("no write was acknowledged");
    found.end()
}

/// What the database has of each compute in the end, with the line that says so.
fn ends<'a>(facts: &Facts<'a>) -> HashMap<&'a ComputeId, (usize, Generation, &'a SpecHash)> {
    let ends = numbered(facts.entries).filter_map(|(line, entry)| match &entry.event {
        Event::Final { compute_id, generation, spec_hash, .. } => Some((compute_id, (line, *generation, spec_hash))),
        _ => None,
    });
    ends.collect()
}
