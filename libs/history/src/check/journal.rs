//! The journal: its lines are in the order of the terms that wrote them, and tell of generations that only rise.
//!
//! Agents' transitions and people's actions are two sequences of generations, because an agent may be behind what was
//! asked. A line that tells of lost commits begins its compute's sequences anew.

use std::collections::{HashMap, HashSet};

use pgfleet_api::{ComputeId, Generation, Term};

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "journal";
/// The kind of what was asked for.
const ACTION: &str = "action";
const SAYS: &str =
    "journalled terms are in the leader history and never fall, nor do generations unless commits were lost";

pub(super) fn check(facts: &Facts<'_>, _: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let history: HashSet<Term> = facts.entries.iter().filter_map(|entry| told(&entry.event)).collect();
    let mut order: Option<(i64, Term, usize)> = None;
    let mut generations: HashMap<(&ComputeId, &str), (Generation, usize)> = HashMap::new();
    for (line, entry) in numbered(facts.entries) {
        let Event::Journalled { change_seq, compute_id, term, kind, generation, lost_commit, .. } = &entry.event else {
            continue;
        };
        found.fact();
        if !history.is_empty() && !history.contains(term) {
            found.violation(
                [line],
                format!("change {change_seq} is of term {term}, which the leader history does not have"),
            );
        }
        if let Some((seq, last, other)) = order {
            if *change_seq <= seq {
                found.violation([other, line], format!("change {change_seq} stands after change {seq}"));
            }
            if *term < last {
                found.violation(
                    [other, line],
                    format!("change {change_seq} is of term {term}, and {seq} before it of {last}"),
                );
            }
        }
        order = Some((*change_seq, *term, line));
        let Some(compute_id) = compute_id else { continue };
        if *lost_commit {
            generations.retain(|(about, _), _| *about != compute_id);
        }
        let Some(generation) = generation else { continue };
        match generations.insert((compute_id, kind.as_str()), (*generation, line)) {
            Some((last, other)) if last > *generation => {
                let what = format!("{kind} of {compute_id} tells of generation {generation} after {last}");
                found.violation([other, line], what);
            }
            Some(_) | None => {}
        }
    }
    ends(facts, &generations, &mut found);
    found.nothing("no journal was read");
    found.end()
}

/// What was journalled as asked for, the database has. Not after a loss, which may have taken the one and not the other.
fn ends(facts: &Facts<'_>, journalled: &HashMap<(&ComputeId, &str), (Generation, usize)>, found: &mut Findings) {
    if !facts.losses.all().is_empty() {
        return;
    }
    for (line, entry) in numbered(facts.entries) {
        let Event::Final { compute_id, generation, .. } = &entry.event else { continue };
        let Some((asked, other)) = journalled.get(&(compute_id, ACTION)) else { continue };
        found.fact();
        if asked > generation {
            let what = format!("{compute_id} was asked for {asked} by the journal and the database has {generation}");
            found.violation([*other, line], what);
        }
    }
}

fn told(event: &Event) -> Option<Term> {
    if let Event::TermSeen { term, .. } = event { Some(*term) } else { None }
}
