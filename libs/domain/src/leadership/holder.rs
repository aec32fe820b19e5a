//! What a member decides while it holds a term, or is giving one up. Called by [`super::decide`] only.

use std::time::Duration;

use pgfleet_api::Term;

use super::candidate::claim;
use super::outbid;
use super::{Action, Began, Ending, Event, Failed, Phase, State, Waiting, Why};

/// A term is held: by a member that takes over, by one that serves, or by one that is suspended.
pub(super) fn holding(next: &mut State, term: Term, serves: bool, event: Event, now: Duration) -> Vec<Action> {
    match event {
        Event::Renewed { sent_at } => {
            if let Phase::TakingOver { proved_at, .. }
            | Phase::Leader { proved_at, .. }
            | Phase::Suspended { proved_at, .. } = &mut next.phase
            {
                *proved_at = sent_at.max(*proved_at);
            }
            // Still ours: the database has lost the term that an agent has seen.
            if next.outbid.is_some_and(|since| sent_at >= since) {
                return stop(next, term, Why::Outbid);
            }
            if serves {
                lead_or_suspend(next, now);
            }
            Vec::new()
        }
        Event::Outbid { term: seen } => {
            if !outbid::raise(next, term, seen) || next.outbid.is_some() {
                return Vec::new();
            }
            next.outbid = Some(now);
            vec![Action::Renew]
        }
        Event::TookOver if !serves => {
            if let Phase::TakingOver { proved_at, .. } = next.phase {
                next.phase = Phase::Leader { term, proved_at };
            }
            next.pending = None;
            lead_or_suspend(next, now);
            // What failed just before this term is not let in again at once.
            vec![Action::ReadHistory]
        }
        Event::TakeOverFailed if !serves => {
            next.phase = Phase::Gone;
            vec![Action::Release(term, Ending::TakeOverFailed), Action::Exit(Ending::TakeOverFailed)]
        }
        Event::Tick => {
            if serves {
                lead_or_suspend(next, now);
            }
            Vec::new()
        }
        Event::HistoryRead { newest, failed } => {
            if newest == term {
                let until = now + next.config.migration_retry;
                next.failed = failed.into_iter().map(|target| Failed { target, until }).collect();
            }
            Vec::new()
        }
        Event::Fenced => stop(next, term, Why::Lost),
        Event::StepDownAsked { successor } => stop(next, term, Why::Asked(successor)),
        Event::Terminate => stop(next, term, Why::Terminating),
        Event::RowRead(_)
        | Event::ReadFailed
        | Event::Woken
        | Event::HandOverSeen
        | Event::MayLead(_)
        | Event::Pending(_)
        | Event::TakeOverAsked { .. }
        | Event::Heard(_)
        | Event::Answered { .. }
        | Event::AskEnded(_)
        | Event::ClaimEnded(_)
        | Event::TookOver
        | Event::TakeOverFailed
        | Event::Drained => Vec::new(),
    }
}

/// A lease that is not proved suspends, one that is ends the suspension; only the database can end the leadership.
fn lead_or_suspend(next: &mut State, now: Duration) {
    let proved = next.proved_until().is_some_and(|until| now < until);
    match (&next.phase, proved) {
        (&Phase::Leader { term, proved_at }, false) => next.phase = Phase::Suspended { term, proved_at },
        (&Phase::Suspended { term, proved_at }, true) => next.phase = Phase::Leader { term, proved_at },
        (
            Phase::Candidate(_)
            | Phase::TakingOver { .. }
            | Phase::Leader { .. }
            | Phase::Suspended { .. }
            | Phase::SteppingDown { .. }
            | Phase::SteppedDown { .. }
            | Phase::Gone,
            _,
        ) => {}
    }
}

/// Ends a leadership, whether it serves already or not. One that is lost has nothing to flush: the fence would refuse it.
fn stop(next: &mut State, term: Term, why: Why) -> Vec<Action> {
    let flush = why != Why::Lost;
    next.failed.clear();
    next.outbid = None;
    next.phase = Phase::SteppingDown { term, why };
    vec![Action::StopLeading { flush }]
}

pub(super) fn stepping_down(next: &mut State, term: Term, why: Why, event: Event, now: Duration) -> Vec<Action> {
    match event {
        Event::Drained => match why {
            Why::Asked(successor) => {
                next.phase = Phase::SteppedDown { term, successor, since: now };
                vec![Action::ReadRow]
            }
            Why::Terminating => {
                next.phase = Phase::Gone;
                vec![Action::Release(term, Ending::Done), Action::Exit(Ending::Done)]
            }
            // The row is read once more: if it is still ours, it is claimed above every term that is known.
            Why::Lost | Why::Outbid => {
                next.phase = Phase::Candidate(Waiting::Idle);
                vec![Action::ReadRow]
            }
        },
        Event::Outbid { term: seen } => {
            outbid::raise(next, term, seen);
            Vec::new()
        }
        Event::Terminate => {
            next.phase = Phase::SteppingDown { term, why: Why::Terminating };
            Vec::new()
        }
        Event::TakeOverAsked { force, until } => {
            next.note_wish(force, until, None);
            Vec::new()
        }
        Event::Tick
        | Event::Woken
        | Event::HandOverSeen
        | Event::RowRead(_)
        | Event::ReadFailed
        | Event::HistoryRead { .. }
        | Event::MayLead(_)
        | Event::Pending(_)
        | Event::Heard(_)
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

pub(super) fn stepped_down(next: &mut State, term: Term, since: Duration, event: Event, now: Duration) -> Vec<Action> {
    match event {
        Event::Tick => next.read_when_due(now),
        Event::Woken => {
            next.next_read = now + next.config.renew;
            vec![Action::ReadRow]
        }
        Event::TakeOverAsked { force, until } => {
            next.note_wish(force, until, None);
            Vec::new()
        }
        Event::RowRead(row) => {
            next.look_closely(now);
            let Some(row) = row.filter(|row| row.term <= term) else {
                next.phase = Phase::Candidate(Waiting::Idle);
                // A successor is only watched, unless somebody wants it back already.
                return if next.wish.is_some() { vec![Action::ReadRow] } else { Vec::new() };
            };
            if now.saturating_sub(since) < next.config.revert || !next.can_lead {
                return Vec::new();
            }
            claim(next, Some((&row, true)), Began::Revert)
        }
        Event::Terminate => {
            next.phase = Phase::Gone;
            // Harmless if the successor has claimed: the release names term and instance.
            vec![Action::Release(term, Ending::Done), Action::Exit(Ending::Done)]
        }
        Event::ReadFailed
        | Event::HandOverSeen
        | Event::HistoryRead { .. }
        | Event::MayLead(_)
        | Event::Pending(_)
        | Event::Answered { .. }
        | Event::Heard(_)
        | Event::AskEnded(_)
        | Event::ClaimEnded(_)
        | Event::Renewed { .. }
        | Event::Fenced
        | Event::Outbid { .. }
        | Event::TookOver
        | Event::TakeOverFailed
        | Event::Drained
        | Event::StepDownAsked { .. } => Vec::new(),
    }
}
