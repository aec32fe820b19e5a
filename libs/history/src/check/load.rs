//! Whether anybody asked for anything: a run without load proves nothing.

use super::{Facts, Options};
use crate::event::Answer;
use crate::report::{Finding, Findings};

const NAME: &str = "load";
const SAYS: &str = "writes were acknowledged and reads answered";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let (mut wrote, mut read) = (false, false);
    for answered in facts.ops.iter().filter_map(|op| op.answered) {
        found.fact();
        match answered.answer {
            Answer::Written { .. } => wrote = true,
            Answer::Read { .. } => read = true,
            Answer::Refused { .. } | Answer::Unknown { .. } => {}
        }
    }
    if options.expect_load && !wrote {
        found.violation([], "not one write was acknowledged");
    }
    if options.expect_load && !read {
        found.violation([], "not one read was answered");
    }
    found.nothing("no call was recorded");
    found.end()
}
