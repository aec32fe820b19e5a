//! Wherever a history shows a generation together with its content.

use pgfleet_api::{ComputeId, Generation, SpecHash};

use super::Facts;
use crate::calls::numbered;
use crate::event::{Answer, Event};

/// A generation and its content, as somebody showed them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sighting<'a> {
    pub(super) line: usize,
    pub(super) at_us: u64,
    pub(super) compute_id: &'a ComputeId,
    pub(super) generation: Generation,
    pub(super) spec_hash: &'a SpecHash,
    /// Who showed it, for a person.
    pub(super) by: &'static str,
}

/// All of them, in the order of lines.
pub(super) fn all<'a>(facts: &Facts<'a>) -> Vec<Sighting<'a>> {
    let mut all: Vec<Sighting<'a>> = facts.ops.iter().filter_map(answered).collect();
    for (line, entry) in numbered(facts.entries) {
        let at_us = entry.at_us;
        match &entry.event {
            Event::Given { compute_id, generation, spec_hash } => {
                all.push(Sighting { line, at_us, compute_id, generation: *generation, spec_hash, by: "the beginning" });
            }
            Event::AgentSeen { compute_id, generation: Some(generation), spec_hash: Some(spec_hash), .. } => {
                all.push(Sighting { line, at_us, compute_id, generation: *generation, spec_hash, by: "the agent" });
            }
            Event::Final { compute_id, generation, spec_hash, .. } => {
                all.push(Sighting { line, at_us, compute_id, generation: *generation, spec_hash, by: "the database" });
            }
            Event::Journalled {
                compute_id: Some(compute_id),
                generation: Some(generation),
                spec_hash: Some(spec_hash),
                ..
            } => {
                all.push(Sighting { line, at_us, compute_id, generation: *generation, spec_hash, by: "the journal" });
            }
            _ => {}
        }
    }
    all.sort_by_key(|one| one.line);
    all
}

fn answered<'a>(op: &crate::calls::Op<'a>) -> Option<Sighting<'a>> {
    let answered = op.answered?;
    let (generation, spec_hash, by) = match answered.answer {
        Answer::Written { generation } => (*generation, op.writes()?, "an acknowledged write"),
        Answer::Read { generation, spec_hash } => (*generation, spec_hash, "a read"),
        Answer::Refused { .. } | Answer::Unknown { .. } => return None,
    };
    Some(Sighting { line: answered.line, at_us: answered.at_us, compute_id: op.compute_id, generation, spec_hash, by })
}
