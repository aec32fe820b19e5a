//! Calls with their answers, as the invariants look at them. What does not pair is `check::recording`'s to report.

use std::collections::HashMap;

use pgfleet_api::{ComputeId, SpecHash};

use crate::event::{Answer, Call, Entry, Event};

/// A call, and its answer if there was one.
#[derive(Debug)]
pub(crate) struct Op<'a> {
    /// Whom it is about.
    pub(crate) compute_id: &'a ComputeId,
    /// What was asked.
    pub(crate) call: &'a Call,
    /// Line of the call, counted from 1.
    pub(crate) line: usize,
    /// Time of the call.
    pub(crate) called_us: u64,
    /// The answer, its line and its time.
    pub(crate) answered: Option<Answered<'a>>,
}

/// An answer and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered<'a> {
    pub(crate) answer: &'a Answer,
    pub(crate) line: usize,
    pub(crate) at_us: u64,
}

impl<'a> Op<'a> {
    /// The content, for a write.
    pub(crate) fn writes(&self) -> Option<&'a SpecHash> {
        match self.call {
            Call::Write { spec_hash } => Some(spec_hash),
            Call::Read => None,
        }
    }

    /// The lines it stands on.
    pub(crate) fn lines(&self) -> Vec<usize> {
        std::iter::once(self.line).chain(self.answered.map(|answered| answered.line)).collect()
    }
}

/// Every call in the order of the calls; of two with one number the first counts, as does the first answer.
pub(crate) fn pair(entries: &[Entry]) -> Vec<Op<'_>> {
    let mut ops: Vec<Op<'_>> = Vec::new();
    let mut by_number: HashMap<u64, usize> = HashMap::new();
    for (line, entry) in numbered(entries) {
        match &entry.event {
            Event::Called { op, compute_id, call, .. } => {
                by_number.entry(*op).or_insert_with(|| {
                    ops.push(Op { compute_id, call, line, called_us: entry.at_us, answered: None });
                    ops.len() - 1
                });
            }
            Event::Answered { op, answer } => {
                if let Some(op) = by_number.get(op).and_then(|index| ops.get_mut(*index)) {
                    op.answered.get_or_insert(Answered { answer, line, at_us: entry.at_us });
                }
            }
            _ => {}
        }
    }
    ops
}

/// Entries with the numbers of their lines.
pub(crate) fn numbered(entries: &[Entry]) -> impl Iterator<Item = (usize, &Entry)> {
    entries.iter().enumerate().map(|(index, entry)| (index + 1, entry))
}
