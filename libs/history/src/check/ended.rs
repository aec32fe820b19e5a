//! Whether the recording ended in order: a history that was cut proves nothing about its rest.

use super::{Facts, Options};
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "ended";
const SAYS: &str = "the recording ended in order";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    if !options.expect_end {
        found.nothing("this is a look at something that goes on");
        return found.end();
    }
    found.fact();
    if !facts.entries.iter().any(|entry| entry.event == Event::Ended) {
        found.violation([facts.entries.len()], "the history was cut: there is no line `ended`");
    }
    found.end()
}
