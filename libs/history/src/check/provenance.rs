//! Nothing comes from nowhere: whatever is shown of a compute was asked for by somebody, and before it was shown.
//!
//! A pair of generation and content is explained by an acknowledged write of both, by a write of that content whose end is
//! not known, or by what was there before the recording began. After commits were lost on purpose a leader may put content
//! it has under a new generation, above what the agent holds; then the content alone is looked for.

use std::collections::HashMap;

use pgfleet_api::{ComputeId, Generation, SpecHash};

use super::sightings::{self, Sighting};
use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::{Answer, Event};
use crate::report::{Finding, Findings};

const NAME: &str = "provenance";
const SAYS: &str = "no agent, read or row shows what nobody had asked for";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    if facts.ops.is_empty() && !options.expect_load {
        found.nothing("no call was recorded, so nobody is known to have asked");
        return found.end();
    }
    let sources = Sources::of(facts);
    for seen in sightings::all(facts) {
        found.fact();
        if sources.explain(&seen) {
            continue;
        }
        if facts.losses.before(seen.at_us) && sources.content(&seen) {
            found.exempt();
            continue;
        }
        let what = format!(
            "{} {} as shown by {} was asked for by nobody before (what was there before a recording is `given`)",
            seen.compute_id, seen.generation, seen.by
        );
        found.violation([seen.line], what);
    }
    found.end()
}

/// A content that was asked for, with the line of the call.
type ByContent<'a> = HashMap<(&'a ComputeId, &'a SpecHash), Vec<Source>>;

struct Source {
    line: usize,
    /// None: under whatever generation it got, if any.
    generation: Option<Generation>,
}

struct Sources<'a>(ByContent<'a>);

impl<'a> Sources<'a> {
    fn of(facts: &Facts<'a>) -> Self {
        let mut by_content: ByContent<'a> = HashMap::new();
        for op in &facts.ops {
            let Some(hash) = op.writes() else { continue };
            let generation = match op.answered.map(|answered| answered.answer) {
                Some(Answer::Written { generation }) => Some(*generation),
                Some(Answer::Unknown { .. }) | None => None,
                Some(Answer::Refused { .. } | Answer::Read { .. }) => continue,
            };
            by_content.entry((op.compute_id, hash)).or_default().push(Source { line: op.line, generation });
        }
        for (line, entry) in numbered(facts.entries) {
            if let Event::Given { compute_id, generation, spec_hash } = &entry.event {
                let given = Source { line, generation: Some(*generation) };
                by_content.entry((compute_id, spec_hash)).or_default().push(given);
            }
        }
        Self(by_content)
    }

    fn before(&self, seen: &Sighting<'a>) -> impl Iterator<Item = &Source> {
        let sources = self.0.get(&(seen.compute_id, seen.spec_hash)).into_iter().flatten();
        let line = seen.line;
        sources.filter(move |source| source.line <= line)
    }

    fn explain(&self, seen: &Sighting<'a>) -> bool {
        self.before(seen).any(|source| source.generation.is_none_or(|generation| generation == seen.generation))
    }

    fn content(&self, seen: &Sighting<'a>) -> bool {
        self.before(seen).next().is_some()
    }
}
