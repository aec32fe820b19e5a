//! Each compute's spec is one register: reads and writes of it, through whichever member, look as if they had happened one
//! after the other, each at a moment between its call and its answer.
//!
//! How a compute's calls become steps of a register for `search`:
//!
//! - The values the register is known to have had are those that were acknowledged or read, in the order of their
//!   generations: a generation only rises, so the register went from each to the next.
//! - A write without a certain end may have taken effect at any time after its call, or never. It matters only if its
//!   content was seen: then it is a step that may happen. Of several such writes of one content the earliest stands for all.
//! - A refused call did nothing. A read without an answer says nothing.
//! - Where commits were lost on purpose the history is cut in two, because the register went back. What overlaps the cut
//!   is taken as a call without a certain end. After a cut a leader may put content that it has under a higher generation.
//!
//! A history that is not linearizable is searched again, by halves, for the first answer that makes it so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use pgfleet_api::{ComputeId, Generation, SpecHash};

use super::{Facts, Options};
use crate::calls::{Answered, Op};
use crate::event::{Answer, Event};
use crate::report::{Finding, Findings};
use crate::search::{Step, Timed, Verdict, search};

const NAME: &str = "linearizable";
const SAYS: &str = "reads and writes of each compute look as if they had happened one after the other";

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Finding {
    let mut found = Findings::new(NAME, SAYS);
    let mut by_compute: BTreeMap<&ComputeId, Vec<&Op<'_>>> = BTreeMap::new();
    for op in &facts.ops {
        by_compute.entry(op.compute_id).or_default().push(op);
    }
    let given = given(facts);
    let mut budget = Budget { left: options.linearizable_within };
    let mut open = Vec::new();
    for (compute_id, ops) in by_compute {
        for piece in pieces(facts, ops, given.get(compute_id).copied()) {
            match piece.judge(&mut budget, &mut found) {
                Some(true) => {}
                Some(false) => piece.blame(compute_id, &mut budget, &mut found),
                None => open.push(compute_id.to_string()),
            }
        }
    }
    if !open.is_empty() {
        let limit = options.linearizable_within.as_secs();
        found.undecided(format!("the search took more than {limit} s; not decided for {}", open.join(", ")));
    }
    found.nothing("no call was recorded");
    found.end()
}

/// Time that the searches share.
struct Budget {
    left: Duration,
}

impl Budget {
    fn search(&mut self, ops: &[Timed]) -> Verdict {
        let began = Instant::now();
        let verdict = search(ops, self.left);
        self.left = self.left.saturating_sub(began.elapsed());
        verdict
    }
}

type Value<'a> = (Generation, &'a SpecHash);

/// What each compute had before the recording.
fn given<'a>(facts: &Facts<'a>) -> HashMap<&'a ComputeId, Value<'a>> {
    let given = facts.entries.iter().filter_map(|entry| match &entry.event {
        Event::Given { compute_id, generation, spec_hash } => Some((compute_id, (*generation, spec_hash))),
        _ => None,
    });
    given.collect()
}

/// The calls about one compute, between two times at which the database was put back.
struct Piece<'f, 'a> {
    ops: Vec<&'f Op<'a>>,
    /// Where it begins and ends, in microseconds.
    from_us: u64,
    before_us: u64,
    /// What the register had at the very beginning; after a cut that is not known.
    given: Option<Value<'a>>,
    after_cut: bool,
}

fn pieces<'f, 'a>(facts: &Facts<'_>, ops: Vec<&'f Op<'a>>, given: Option<Value<'a>>) -> Vec<Piece<'f, 'a>> {
    let mut pieces = Vec::new();
    let mut from_us = 0;
    for loss in facts.losses.all() {
        let after_cut = !pieces.is_empty();
        pieces.push(Piece { ops: ops.clone(), from_us, before_us: loss.since_us, given, after_cut });
        from_us = loss.until_us;
    }
    let after_cut = !pieces.is_empty();
    pieces.push(Piece { ops, from_us, before_us: u64::MAX, given, after_cut });
    pieces
}

/// An answered call of which the answer counts.
struct Certain<'f, 'a> {
    op: &'f Op<'a>,
    answered: Answered<'a>,
    value: Value<'a>,
    step: fn(u32) -> Step,
}

impl<'f, 'a> Piece<'f, 'a> {
    /// The answers that count, in the order of their lines.
    fn certain(&self) -> Vec<Certain<'f, 'a>> {
        let mut certain: Vec<_> = self.ops.iter().filter_map(|op| self.certainly(op)).collect();
        certain.sort_by_key(|one| one.answered.line);
        certain
    }

    fn certainly(&self, op: &'f Op<'a>) -> Option<Certain<'f, 'a>> {
        let answered = op.answered?;
        if op.called_us < self.from_us || answered.at_us >= self.before_us {
            return None;
        }
        let (value, step): (Value<'a>, fn(u32) -> Step) = match answered.answer {
            Answer::Written { generation } => ((*generation, op.writes()?), Step::Write),
            Answer::Read { generation, spec_hash } => ((*generation, spec_hash), Step::Read),
            Answer::Refused { .. } | Answer::Unknown { .. } => return None,
        };
        Some(Certain { op, answered, value, step })
    }

    /// Whether there is an order; none: not decided.
    fn judge(&self, budget: &mut Budget, found: &mut Findings) -> Option<bool> {
        let certain = self.certain();
        for _ in &certain {
            found.fact();
        }
        decided(budget.search(&self.steps(&certain)))
    }

    /// Names the first answer that no order explains.
    fn blame(&self, compute_id: &ComputeId, budget: &mut Budget, found: &mut Findings) {
        let certain = self.certain();
        let (mut good, mut bad) = (0, certain.len());
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match decided(budget.search(&self.steps(&certain[..middle]))) {
                Some(true) => good = middle,
                Some(false) => bad = middle,
                None => break,
            }
        }
        let Some(last) = certain[..bad].last() else { return };
        let what = if bad - good > 1 {
            "no order of the calls up to here explains all answers".to_owned()
        } else {
            format!("no order of the calls explains generation {} in this answer", last.value.0)
        };
        found.violation(last.op.lines(), format!("{compute_id}: {what}"));
    }

    /// The steps of a register for these answers, beside all that may have been written.
    fn steps(&self, certain: &[Certain<'f, 'a>]) -> Vec<Timed> {
        let given = self.given.filter(|_| !self.after_cut);
        // Of two contents of one generation the later one is a value that the register never had.
        let mut values: BTreeMap<Generation, &SpecHash> = BTreeMap::new();
        for one in certain.iter().filter(|one| given.is_none_or(|(first, _)| one.value.0 > first)) {
            values.entry(one.value.0).or_insert(one.value.1);
        }
        let ranks: HashMap<Value<'_>, u32> =
            given.into_iter().map(|value| (value, 0)).chain(values.into_iter().zip(1..)).collect();
        let rank = |value: Value<'a>| ranks.get(&value).copied();
        let known: BTreeSet<Value<'a>> = certain.iter().map(|one| one.value).collect();
        let certain_steps = certain.iter().map(|one| Timed {
            step: rank(one.value).map_or(Step::Impossible, one.step),
            from: one.op.line,
            to: Some(one.answered.line),
        });
        let mut steps: Vec<Timed> = certain_steps.collect();
        let sources = self.sources(certain);
        for value in known {
            if let (Some(from), Some(rank @ 1..)) = (sources.get(value.1), rank(value)) {
                steps.push(Timed { step: Step::MayWrite(rank), from: *from, to: None });
            }
        }
        steps
    }

    /// From which line on each content may come into the register without an answer that says so.
    fn sources(&self, certain: &[Certain<'f, 'a>]) -> HashMap<&'a SpecHash, usize> {
        let lines: BTreeSet<usize> = certain.iter().map(|one| one.op.line).collect();
        let mut sources: HashMap<&SpecHash, usize> = HashMap::new();
        if let Some((_, hash)) = self.given.filter(|_| self.after_cut) {
            sources.insert(hash, 0);
        }
        for op in &self.ops {
            let refused = op.answered.is_some_and(|one| matches!(one.answer, Answer::Refused { .. }));
            let open = self.after_cut || !lines.contains(&op.line);
            let Some(hash) = op.writes().filter(|_| open && !refused && op.called_us < self.before_us) else {
                continue;
            };
            let from = if op.called_us < self.from_us { 0 } else { op.line };
            sources.entry(hash).and_modify(|first| *first = from.min(*first)).or_insert(from);
        }
        sources
    }
}

fn decided(verdict: Verdict) -> Option<bool> {
    match verdict {
        Verdict::Linearizable => Some(true),
        Verdict::NotLinearizable => Some(false),
        Verdict::NotDecided => None,
    }
}
