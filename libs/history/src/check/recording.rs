//! Whether the file is a recording at all: what the other invariants take for granted.

use std::collections::{HashMap, HashSet};

use super::{Facts, Options};
use crate::calls::numbered;
use crate::event::{Answer, Call, Event};
use crate::report::{Finding, Findings};

const NAME: &str = "recording";
const SAYS: &str = "the recording begins once, runs forward in time and pairs every answer with one call";

pub(super) fn check(facts: &Facts<'_>, _: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    if !matches!(facts.entries.first().map(|entry| &entry.event), Some(Event::Begun { .. })) {
        found.violation([], "the first line is not `begun`");
    }
    in_order(facts, &mut found);
    pairs(facts, &mut found);
    found.end()
}

fn in_order(facts: &Facts<'_>, found: &mut Findings) {
    let mut clock = 0;
    let mut ended = None;
    for (line, entry) in numbered(facts.entries) {
        found.fact();
        if entry.at_us < clock {
            found.violation([line - 1, line], format!("the clock goes back from {clock} to {} us", entry.at_us));
        }
        clock = clock.max(entry.at_us);
        if let Some(end) = ended {
            found.violation([end, line], "something is recorded after the end");
        }
        match entry.event {
            Event::Begun { .. } if line > 1 => found.violation([line], "the recording begins a second time"),
            Event::Ended => ended = Some(line),
            _ => {}
        }
    }
}

fn pairs(facts: &Facts<'_>, found: &mut Findings) {
    let mut waiting: HashMap<u64, (u32, usize, &Call)> = HashMap::new();
    let mut busy: HashMap<u32, usize> = HashMap::new();
    let mut used = HashSet::new();
    for (line, entry) in numbered(facts.entries) {
        match &entry.event {
            Event::Called { op, client, call, .. } => {
                if !used.insert(*op) {
                    found.violation([line], format!("call {op} was sent before"));
                }
                if let Some(other) = busy.insert(*client, line) {
                    found.violation([other, line], format!("client {client} asks two things at a time"));
                }
                waiting.insert(*op, (*client, line, call));
            }
            Event::Answered { op, answer } => {
                let Some((client, called, call)) = waiting.remove(op) else {
                    found.violation([line], format!("an answer to call {op}, which does not wait for one"));
                    continue;
                };
                busy.remove(&client);
                if !fits(call, answer) {
                    found.violation([called, line], "a write is answered as a read, or a read as a write");
                }
            }
            _ => {}
        }
    }
}

fn fits(call: &Call, answer: &Answer) -> bool {
    match answer {
        Answer::Written { .. } => matches!(call, Call::Write { .. }),
        Answer::Read { .. } => matches!(call, Call::Read),
        Answer::Refused { .. } | Answer::Unknown { .. } => true,
    }
}
