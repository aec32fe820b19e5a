//! When every process has ended, nothing of it is left.

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "leftovers";
const SAYS: &str = "no session, lock or task is left behind";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let mut looked = false;
    for (line, entry) in numbered(facts.entries) {
        let Event::Leftovers { found: left } = &entry.event else { continue };
        looked = true;
        found.fact();
        if !left.is_empty() {
            found.violation([line], format!("left behind: {}", left.join("; ")));
        }
    }
    if !looked && options.expect_faults {
        found.violation([], "nobody looked at what was left behind");
    }
    found.nothing("nobody looked at what was left behind");
    found.end()
}
