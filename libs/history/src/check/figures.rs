//! What the history holds, counted.

use std::collections::HashSet;

use super::Facts;
use crate::event::{Answer, Event};
use crate::report::Figures;

pub(super) fn count(facts: &Facts<'_>) -> Figures {
    let mut figures = Figures { entries: facts.entries.len() as u64, ..Figures::default() };
    let (mut computes, mut terms) = (HashSet::new(), HashSet::new());
    for entry in facts.entries {
        match &entry.event {
            Event::Begun { seed, .. } => figures.seed = *seed,
            Event::TermSeen { term, .. } => {
                terms.insert(*term);
            }
            Event::Called { compute_id, .. }
            | Event::Given { compute_id, .. }
            | Event::AgentSeen { compute_id, .. }
            | Event::Final { compute_id, .. } => {
                computes.insert(compute_id);
            }
            Event::Fault { kind, .. } => *figures.faults.entry(kind.clone()).or_default() += 1,
            Event::PausePoint { name, .. } => *figures.pause_points.entry(name.clone()).or_default() += 1,
            Event::Answered { .. }
            | Event::Journalled { .. }
            | Event::MemberSeen { .. }
            | Event::RowWritten { .. }
            | Event::FaultEnded { .. }
            | Event::CommitsLost { .. }
            | Event::Leftovers { .. }
            | Event::Ended => {}
        }
    }
    figures.computes = computes.len() as u64;
    figures.terms = terms.len() as u64;
    figures.duration_ms = duration_us(facts) / 1000;
    calls(facts, &mut figures);
    figures.longest_gap_ms = longest_gap_us(facts).map(|us| us / 1000);
    figures
}

fn duration_us(facts: &Facts<'_>) -> u64 {
    let (first, last) = (facts.entries.first(), facts.entries.last());
    first.zip(last).map_or(0, |(first, last)| last.at_us.saturating_sub(first.at_us))
}

fn calls(facts: &Facts<'_>, figures: &mut Figures) {
    for op in &facts.ops {
        figures.calls += 1;
        match op.answered.map(|answered| answered.answer) {
            Some(Answer::Written { .. }) => figures.writes += 1,
            Some(Answer::Read { .. }) => figures.reads += 1,
            Some(Answer::Refused { .. }) => figures.refused += 1,
            Some(Answer::Unknown { .. }) | None => figures.unknown += 1,
        }
    }
}

fn longest_gap_us(facts: &Facts<'_>) -> Option<u64> {
    let begin = facts.ops.iter().filter(|op| op.writes().is_some()).map(|op| op.called_us).min()?;
    let answers = facts.ops.iter().filter_map(|op| op.answered);
    let mut ends: Vec<u64> =
        answers.filter(|one| matches!(one.answer, Answer::Written { .. })).map(|one| one.at_us).collect();
    ends.sort_unstable();
    let begins = std::iter::once(begin).chain(ends.iter().copied());
    begins.zip(&ends).map(|(from, to)| to.saturating_sub(from)).max()
}
