//! What a candidate decides: whom to ask, when to claim. Called by [`super::decide`] only.

use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_api::controller::LeaderRef;

use super::{Action, Answer, AskEnd, Began, Claim, ClaimEnd, Ending, Event, Phase, Row, Seen, State, Waiting};

pub(super) fn decide(next: &mut State, waiting: Waiting, event: Event, now: Duration) -> Vec<Action> {
    let idle = waiting == Waiting::Idle;
    match event {
        Event::Tick => next.read_when_due(now),
        Event::Woken if idle => {
            next.next_read = now + next.config.renew;
            vec![Action::ReadRow]
        }
        Event::TakeOverAsked { force, until } => {
            // A request that is under way goes on, and its answer is about the term that was asked.
            let asked = next.wish.as_ref().and_then(|wish| wish.asked).filter(|_| waiting == Waiting::Asking);
            next.note_wish(force, until, asked);
            if idle { vec![Action::ReadRow] } else { Vec::new() }
        }
        Event::RowRead(row) if idle => row_read(next, row.as_ref(), now),
        Event::HistoryRead { newest, failed } if idle => history_read(next, newest, &failed),
        Event::Answered { term, answer } if idle => answered(next, term, answer, now),
        Event::AskEnded(end) => match waiting {
            Waiting::Asking => ask_ended(next, end),
            Waiting::Idle | Waiting::Claiming => Vec::new(),
        },
        Event::ClaimEnded(end) => claim_ended(next, end),
        Event::Terminate => {
            next.phase = Phase::Gone;
            vec![Action::Exit(Ending::Done)]
        }
        // Busy, or late results of a leadership that is over.
        Event::Woken
        | Event::RowRead(_)
        | Event::HistoryRead { .. }
        | Event::Answered { .. }
        | Event::ReadFailed
        | Event::MayLead(_)
        | Event::Pending(_)
        | Event::HandOverSeen
        | Event::Renewed { .. }
        | Event::Heard(_)
        | Event::Fenced
        | Event::Outbid { .. }
        | Event::TookOver
        | Event::TakeOverFailed
        | Event::Drained
        | Event::StepDownAsked { .. } => Vec::new(),
    }
}

fn row_read(next: &mut State, row: Option<&Row>, now: Duration) -> Vec<Action> {
    if next.wish.as_ref().and_then(|wish| wish.until).is_some_and(|until| now >= until) {
        next.wish = None;
    }
    if !next.can_lead {
        return Vec::new();
    }
    let Some(row) = row else {
        return claim(next, None, Began::First);
    };
    if row.released {
        // One that would migrate asks first whether that is what ended the term: then the others come first.
        if next.pending.is_some() && !next.lease_ran_out(now) {
            return vec![Action::ReadHistory];
        }
        return claim(next, Some((row, true)), Began::Released);
    }
    if row.instance_id == next.config.me {
        return claim(next, Some((row, true)), Began::Revert);
    }
    if let Some(wish) = next.wish.as_mut().filter(|wish| wish.asked != Some(row.term)) {
        wish.asked = Some(row.term);
        let force = wish.force;
        next.phase = Phase::Candidate(Waiting::Asking);
        let leader = LeaderRef { instance_id: row.instance_id, term: row.term, address: row.address.clone() };
        return vec![Action::AskStepDown { leader, force }];
    }
    if next.lease_ran_out(now) {
        return claim(next, Some((row, false)), Began::Lease);
    }
    vec![Action::AskStatus(row.clone())]
}

fn history_read(next: &mut State, newest: Term, failed: &[String]) -> Vec<Action> {
    if !next.can_lead {
        return Vec::new();
    }
    let Some(watch) = next.watch.as_ref().filter(|watch| watch.row.released && watch.row.term == newest) else {
        return Vec::new();
    };
    if !next.can_lead || next.pending.as_ref().is_some_and(|target| failed.contains(target)) {
        return Vec::new();
    }
    let row = watch.row.clone();
    claim(next, Some((&row, true)), Began::Released)
}

fn answered(next: &mut State, term: Term, answer: Answer, now: Duration) -> Vec<Action> {
    let Some(watch) = next.watch.as_mut().filter(|watch| watch.row.term == term && !watch.row.released) else {
        return Vec::new();
    };
    if !next.can_lead {
        return Vec::new();
    }
    match answer {
        Answer::Holds => {
            watch.stepped_down = None;
            next.back_off(now);
            Vec::new()
        }
        Answer::Silent => Vec::new(),
        Answer::Dead => {
            let row = watch.row.clone();
            claim(next, Some((&row, false)), Began::Crash)
        }
        Answer::SteppedDown { successor, hold } => {
            let since = *watch.stepped_down.get_or_insert(now);
            let row = watch.row.clone();
            next.look_closely(now);
            if successor == Some(next.config.me) || now.saturating_sub(since) >= hold {
                return claim(next, Some((&row, true)), Began::StepDown);
            }
            Vec::new()
        }
    }
}

fn ask_ended(next: &mut State, end: AskEnd) -> Vec<Action> {
    next.phase = Phase::Candidate(Waiting::Idle);
    match end {
        // If the schema has moved on meanwhile, whoever consented leads on.
        AskEnd::Consented if !next.can_lead => Vec::new(),
        // Consent is to the end of the term that was asked. Where the answer is late, the row may be a later leader's by now.
        AskEnd::Consented => {
            let asked = next.wish.as_ref().and_then(|wish| wish.asked);
            let row = next.watch.as_ref().map(|watch| &watch.row).filter(|row| Some(row.term) == asked);
            let Some(row) = row.cloned() else {
                return vec![Action::ReadRow];
            };
            claim(next, Some((&row, true)), Began::StepDown)
        }
        // Somebody else may lead by now: the wish stays for a leader that was not asked yet.
        AskEnd::NotThatLeader => vec![Action::ReadRow],
        AskEnd::Failed => {
            next.wish = None;
            vec![Action::ReadRow]
        }
        AskEnd::MigrationFailedBefore => {
            next.wish = None;
            Vec::new()
        }
        // An operator is told; a member that is started to take over never could.
        AskEnd::Unauthorized if next.wish.take().is_some_and(|wish| wish.until.is_some()) => Vec::new(),
        AskEnd::Unauthorized => {
            next.phase = Phase::Gone;
            vec![Action::Exit(Ending::Unauthorized)]
        }
    }
}

/// Without consent the claim holds only while the row has not been renewed, and the old sessions are ended first.
pub(super) fn claim(next: &mut State, over: Option<(&Row, bool)>, how: Began) -> Vec<Action> {
    next.phase = Phase::Candidate(Waiting::Claiming);
    let seen = over.map(|(row, consent)| Seen {
        term: row.term,
        instance_id: row.instance_id,
        renewals: (!consent).then_some(row.renewals),
    });
    let end_sessions = over.is_some_and(|(_, consent)| !consent);
    vec![Action::Claim(Claim { seen, floor: next.highest, how, end_sessions })]
}

fn claim_ended(next: &mut State, end: ClaimEnd) -> Vec<Action> {
    match end {
        ClaimEnd::Won { term, sent_at } => {
            next.wish = None;
            next.highest = next.highest.max(term);
            // What was read or heard before tells of somebody who leads no more, also when this term has ended.
            next.watch = None;
            next.heard = next.heard.take().filter(|heard| heard.term > term);
            next.phase = Phase::TakingOver { term, proved_at: sent_at };
            vec![Action::TakeOver(term)]
        }
        ClaimEnd::Lost => {
            next.phase = Phase::Candidate(Waiting::Idle);
            vec![Action::ReadRow]
        }
        ClaimEnd::Failed => {
            next.phase = Phase::Candidate(Waiting::Idle);
            Vec::new()
        }
    }
}
