//! Whether anything was broken, and load went on afterwards: a chaos run without either proves nothing.

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::{Answer, Event};
use crate::report::{Finding, Findings};

const NAME: &str = "faults";
const SAYS: &str = "faults were injected, and writes were acknowledged after the last of them";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let mut last = None;
    for (line, entry) in numbered(facts.entries) {
        if let Event::Fault { .. } = entry.event {
            found.fact();
            last = Some(line);
        }
    }
    if options.expect_faults {
        match last {
            None => found.violation([], "no fault was injected"),
            Some(line) if !wrote_after(facts, line) => {
                found.violation([line], "load stopped: no write was acknowledged after the last fault");
            }
            Some(_) => {}
        }
    }
    found.nothing("no fault was injected");
    found.end()
}

fn wrote_after(facts: &Facts<'_>, line: usize) -> bool {
    let answers = facts.ops.iter().filter_map(|op| op.answered);
    answers.into_iter().any(|one| one.line > line && matches!(one.answer, Answer::Written { .. }))
}
