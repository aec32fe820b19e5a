//! The agent's oath: over all its lives it never goes back in term or generation, and within one life its status is a
//! growing sequence.

use std::collections::HashMap;

use pgfleet_api::{BootId, ComputeId, Generation, Term};

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "ledger";
const SAYS: &str = "no agent goes back in term or generation over all its lives, nor in status_seq within one";

pub(super) fn check(facts: &Facts<'_>, _: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let mut marks: HashMap<&ComputeId, Marks> = HashMap::new();
    for (line, entry) in numbered(facts.entries) {
        let Event::AgentSeen { compute_id, boot_id, status_seq, term, generation, .. } = &entry.event else { continue };
        found.fact();
        let marks = marks.entry(compute_id).or_default();
        if let Some((last, other)) = rise(&mut marks.term, *term, line) {
            let now = term.map_or(0, Term::get);
            found.violation([other, line], format!("the agent of {compute_id} goes back from term {last} to {now}"));
        }
        if let Some((last, other)) = rise(&mut marks.generation, *generation, line) {
            let now = generation.map_or(0, Generation::get);
            let what = format!("the agent of {compute_id} goes back from generation {last} to {now}");
            found.violation([other, line], what);
        }
        let life = marks.lives.entry(*boot_id).or_default();
        if let Some((last, other)) = rise(life, Some(*status_seq), line) {
            let what =
                format!("the agent of {compute_id} goes back from status_seq {last} to {status_seq} in one life");
            found.violation([other, line], what);
        }
    }
    found.nothing("no agent was seen");
    found.end()
}

#[derive(Default)]
struct Marks {
    term: Option<(Term, usize)>,
    generation: Option<(Generation, usize)>,
    lives: HashMap<BootId, Option<(u64, usize)>>,
}

/// Keeps the highest mark with its line; answers it if `now` is below. An agent that says nothing has not read its ledger yet.
fn rise<T: Copy + Ord>(mark: &mut Option<(T, usize)>, now: Option<T>, line: usize) -> Option<(T, usize)> {
    let now = now?;
    if let Some((last, other)) = mark.filter(|(last, _)| *last > now) {
        return Some((last, other));
    }
    *mark = Some((now, line));
    None
}
