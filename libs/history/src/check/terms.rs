//! Terms, as the database tells them: they grow, and a term is one process's for ever.
//!
//! Told terms are those of the leader history and of the rows that were written. A term of which the history forgot that it
//! was there, because commits were lost on purpose, may come again under another owner.

use std::collections::{HashMap, HashSet};

use pgfleet_api::{InstanceId, Term};

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::Event;
use crate::report::{Finding, Findings};

const NAME: &str = "terms";
const SAYS: &str = "terms strictly grow and never change owner";

pub(super) fn check(facts: &Facts<'_>, _: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let mut walk = Walk { told: HashMap::new(), lost: lost(facts), rising: Vec::new(), written: None };
    for (line, entry) in numbered(facts.entries) {
        match &entry.event {
            Event::TermSeen { term, instance_id, .. } => {
                walk.owner(*term, *instance_id, line, &mut found);
                walk.grows(*term, entry.at_us, line, &mut found);
            }
            Event::RowWritten { term, leader, .. } => {
                walk.owner(*term, *leader, line, &mut found);
                walk.written(*term, line, &mut found);
            }
            Event::CommitsLost { since_us } => walk.forget(*since_us),
            _ => {}
        }
    }
    found.end()
}

/// Terms that were first told of at a time that a loss covers.
pub(super) fn lost(facts: &Facts<'_>) -> HashSet<Term> {
    let mut first: HashMap<Term, u64> = HashMap::new();
    for entry in facts.entries {
        let term = match &entry.event {
            Event::TermSeen { term, .. } | Event::RowWritten { term, .. } => Some(*term),
            Event::MemberSeen { term, .. } => *term,
            _ => None,
        };
        if let Some(term) = term {
            first.entry(term).or_insert(entry.at_us);
        }
    }
    first.into_iter().filter(|(_, at_us)| facts.losses.cover(*at_us)).map(|(term, _)| term).collect()
}

/// Who owns which term by what the database told, and where it was told first.
pub(super) fn owners(facts: &Facts<'_>) -> HashMap<Term, (InstanceId, usize)> {
    let mut owners = HashMap::new();
    for (line, entry) in numbered(facts.entries) {
        match &entry.event {
            Event::TermSeen { term, instance_id: owner, .. } | Event::RowWritten { term, leader: owner, .. } => {
                owners.entry(*term).or_insert((*owner, line));
            }
            _ => {}
        }
    }
    owners
}

/// A term, when and where it was told.
#[derive(Clone, Copy)]
struct Told {
    owner: InstanceId,
    line: usize,
}

struct Walk {
    told: HashMap<Term, Told>,
    lost: HashSet<Term>,
    /// Terms that the history told of, rising, with time and line. A new one must be above the last.
    rising: Vec<(Term, u64, usize)>,
    /// The term of the last row that was written.
    written: Option<(Term, usize)>,
}

impl Walk {
    fn owner(&mut self, term: Term, owner: InstanceId, line: usize, found: &mut Findings) {
        if self.lost.contains(&term) {
            found.exempt();
            return;
        }
        found.fact();
        let first = *self.told.entry(term).or_insert(Told { owner, line });
        if first.owner != owner {
            found.violation([first.line, line], format!("term {term} was {}'s and is now {owner}'s", first.owner));
        }
    }

    fn grows(&mut self, term: Term, at_us: u64, line: usize, found: &mut Findings) {
        let rising = &mut self.rising;
        if rising.iter().any(|(known, _, _)| *known == term) {
            return;
        }
        if let Some((highest, _, other)) = rising.last().filter(|(highest, _, _)| *highest > term) {
            found.violation([*other, line], format!("term {term} begins after term {highest}"));
            return;
        }
        rising.push((term, at_us, line));
    }

    fn written(&mut self, term: Term, line: usize, found: &mut Findings) {
        if let Some((last, other)) = self.written.filter(|(last, _)| *last > term) {
            found.violation([other, line], format!("a row is written in term {term} after one in term {last}"));
            return;
        }
        self.written = Some((term, line));
    }

    /// The database is as it was then.
    fn forget(&mut self, since_us: u64) {
        self.rising.retain(|(_, at_us, _)| *at_us < since_us);
        self.written = None;
    }
}
