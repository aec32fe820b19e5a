//! What a member decides while it holds a term, or is giving one up. Called by [`super::decide`] only.

use std::time::Duration;

use pgfleet_api::Term;

use super::{Action, Ending, Event, Phase, State, Waiting, Why};

/// A term is held: by a member that takes over, or by one that serves already.
pub(super) fn holding(next: &mut State, term: Term, serves: bool, event: Event, now: Duration) -> Vec<Action> {
    match event {
        Event::Renewed { sent_at } => {
            if let Phase::TakingOver { proved_at, .. } | Phase::Leader { proved_at, .. } = &mut next.phase {
                *proved_at = sent_at.max(*proved_at);
            }
            Vec::new()
        }
        Event::TookOver => {
            if let Phase::TakingOver { proved_at, .. } = next.phase {
                next.phase = Phase::Leader { term, proved_at };
            }
            Vec::new()
        }
        Event::TakeOverFailed if !serves => {
            next.phase = Phase::Gone;
            vec![Action::Release(term, Ending::TakeOverFailed), Action::Exit(Ending::TakeOverFailed)]
        }
        Event::Tick => {
            if next.proved_until().is_some_and(|until| now >= until) {
                stop(next, term, Why::Lost)
            } else {
                Vec::new()
            }
        }
        Event::Fenced => stop(next, term, Why::Lost),
        Event::StepDownAsked { successor } => stop(next, term, Why::Asked(successor)),
        Event::Terminate => stop(next, term, Why::Terminating),
        Event::RowRead(_)
        | Event::Heard(_)
        | Event::MayLead(_)
        | Event::Answered { .. }
        | Event::AskEnded(_)
        | Event::ClaimEnded(_)
        | Event::TakeOverFailed
        | Event::Drained => Vec::new(),
    }
}

/// Ends a leadership, whether it serves already or not. One that is lost has nothing to flush: the fence would refuse it.
fn stop(next: &mut State, term: Term, why: Why) -> Vec<Action> {
    let flush = why != Why::Lost;
    next.phase = Phase::SteppingDown { term, why };
    vec![Action::StopLeading { flush }]
}

pub(super) fn stepping_down(next: &mut State, term: Term, why: Why, event: Event) -> Vec<Action> {
    match event {
        Event::Drained => match why {
            Why::Asked(successor) => {
                next.phase = Phase::SteppedDown { term, successor };
                vec![Action::ReadRow]
            }
            Why::Terminating => {
                next.phase = Phase::Gone;
                vec![Action::Release(term, Ending::Done), Action::Exit(Ending::Done)]
            }
            Why::Lost => {
                next.phase = Phase::Candidate(Waiting::Idle);
                vec![Action::ReadRow]
            }
        },
        Event::Terminate => {
            next.phase = Phase::SteppingDown { term, why: Why::Terminating };
            Vec::new()
        }
        Event::Tick
        | Event::RowRead(_)
        | Event::Heard(_)
        | Event::MayLead(_)
        | Event::Answered { .. }
        | Event::AskEnded(_)
        | Event::ClaimEnded(_)
        | Event::Renewed { .. }
        | Event::Fenced
        | Event::TookOver
        | Event::TakeOverFailed
        | Event::StepDownAsked { .. } => Vec::new(),
    }
}

pub(super) fn stepped_down(next: &mut State, term: Term, event: Event, now: Duration) -> Vec<Action> {
    match event {
        Event::Tick => next.read_when_due(now),
        Event::RowRead(row) => {
            let succeeded = row.as_ref().is_none_or(|row| row.term > term);
            next.look_closely(now);
            if succeeded || next.lease_ran_out(now) {
                next.phase = Phase::Candidate(Waiting::Idle);
                // A successor is only watched; after a lease that ran out the own row is claimed again from the next reading.
                return if succeeded { Vec::new() } else { vec![Action::ReadRow] };
            }
            Vec::new()
        }
        Event::Terminate => {
            next.phase = Phase::Gone;
            // Harmless if the successor has claimed: the release names term and instance.
            vec![Action::Release(term, Ending::Done), Action::Exit(Ending::Done)]
        }
        Event::Answered { .. }
        | Event::Heard(_)
        | Event::MayLead(_)
        | Event::AskEnded(_)
        | Event::ClaimEnded(_)
        | Event::Renewed { .. }
        | Event::Fenced
        | Event::TookOver
        | Event::TakeOverFailed
        | Event::Drained
        | Event::StepDownAsked { .. } => Vec::new(),
    }
}
