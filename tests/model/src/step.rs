//! What comes of a move: the world around the members, and the product's decisions in them.
//!
//! A decision and what it orders is one step. What is ordered and takes time (a claim, a question, a request) is under way
//! afterwards and ends by a move of its own, so that everything else may come in between.

use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_api::controller::{Candidate, ControllerStatus};
use pgfleet_domain::fence::Refusal;
use pgfleet_domain::leadership::{
    Action, Answer, AskEnd, Claim, ClaimEnd, Ending, Event, PastTerm, Reply, decide, failed_targets, judge,
};

use crate::agents::Spec;
use crate::mind::{Inst, LeaderRow, Mind, NOW, Stand, TARGET, TICK, Why, address_of, id_of, inst_of};
use crate::moves::{Move, What, Wire};
use crate::scene::{Breach, Mutant, Scene};
use crate::world::{Bid, Plea, Question, Stage, Told, World, Write};

/// The world after the move; `None` if it could not happen. Not canonical.
#[must_use]
pub fn step(world: &World, step: Move, scene: &Scene) -> Option<World> {
    let mut next = world.clone();
    Run { world: &mut next, scene, by: step.by }.take(step.what).then_some(next)
}

struct Run<'a> {
    world: &'a mut World,
    scene: &'a Scene,
    by: u8,
}

impl Run<'_> {
    fn take(&mut self, what: What) -> bool {
        match what {
            What::Starts { takes_over, pending } => return self.starts(takes_over, pending),
            What::Dies => self.ends(),
            What::ClockMoves => self.clock_moves(),
            What::Ticks => self.feed(Event::Tick),
            What::Reads(wire) => self.reads(wire),
            What::ReadFails => self.feed(Event::ReadFailed),
            What::PeerAnswers(wire) => return self.peer_answers(wire),
            What::AnswerArrives => return self.answer_arrives(),
            What::PleaArrives => return self.plea_arrives(),
            What::ConsentArrives => self.plea_ends(AskEnd::Consented),
            What::PleaFails => self.plea_ends(AskEnd::Failed),
            What::SessionsEnd => return self.sessions_end(),
            What::ClaimRuns => return self.claim_runs(),
            What::ClaimFails => self.claim_ends(ClaimEnd::Failed),
            What::ClaimEnds => return self.claim_is_known(),
            What::Renews | What::RenewsUnheard => return self.renews(what == What::Renews),
            What::TookOver => self.took_over(),
            What::MigrationFails if self.mind().is_some_and(|mind| mind.pending) => self.feed(Event::TakeOverFailed),
            What::MigrationFails => return false,
            What::Migrated => self.feed(Event::Pending(None)),
            What::Drained => self.feed(Event::Drained),
            What::ToldToEnd => self.feed(Event::Terminate),
            What::AskedToStepDown => self.feed(Event::StepDownAsked { successor: None }),
            What::AskedToTakeOver => self.feed(Event::TakeOverAsked { force: false, until: NOW + TICK }),
            What::WriteBegins => return self.write_begins(),
            What::WriteCommits => self.write_commits(),
            What::WriteAborts => self.world.member_mut(self.by).write = None,
            What::Pushes => return self.world.push(self.by, self.scene),
            What::PushArrives { place, again } => return self.push_arrives(place, again),
            What::ForeignPush => return self.world.push_foreign(self.scene),
            What::Saved => return self.world.save(),
            What::CommitsLost => return self.world.lose_commits(),
        }
        true
    }

    fn mind(&self) -> Option<Mind> {
        self.world.member(self.by).mind
    }

    fn starts(&mut self, takes_over: bool, pending: bool) -> bool {
        let member = self.world.member_mut(self.by);
        if member.mind.is_some() {
            return false;
        }
        member.last.life += 1;
        member.mind = Some(Mind::new(member.last, takes_over, pending));
        member.knows = Spec::default();
        true
    }

    /// The process is gone; an open transaction of it stays until the database ends it.
    fn ends(&mut self) {
        let member = self.world.member_mut(self.by);
        (member.mind, member.question, member.plea, member.bid) = (None, None, None, None);
        member.knows = Spec::default();
    }

    fn clock_moves(&mut self) {
        let member = self.world.member_mut(self.by);
        member.mind = member.mind.map(|mind| mind.older());
        if let Some(bid) = &mut member.bid
            && matches!(bid.stage, Stage::Ready | Stage::Won(_))
        {
            bid.age = (bid.age + 1).min(crate::mind::PROVED);
        }
    }

    /// Has the member decide, and carries out what it orders.
    fn feed(&mut self, event: Event) {
        let Some(mind) = self.mind() else { return };
        let (state, actions) = decide(&mind.state(), event, NOW);
        let next = Mind::of(&state, NOW);
        if self.scene.is_off(Mutant::Revert) && is_revert(&mind, &actions) {
            return;
        }
        if let Stand::SteppedDown { term, .. } = next.stand
            && self.world.row.is_some_and(|row| row.owner == next.me && row.term == term)
        {
            self.world.gave_up = true;
        }
        self.world.member_mut(self.by).mind = Some(next);
        for action in actions {
            self.carry_out(action, &next);
        }
    }

    fn carry_out(&mut self, action: Action, mind: &Mind) {
        match action {
            // It may read and renew at any moment anyway. What it started is joined, or takes over, by moves of their own.
            Action::ReadRow | Action::Renew | Action::TakeOver(_) | Action::StopLeading { .. } => {}
            Action::ReadHistory => self.read_history(mind),
            Action::AskStatus(row) => {
                let (term, owner) = (LeaderRow::of_row(&row).term, inst_of(row.instance_id));
                self.world.member_mut(self.by).question = Some(Question { term, owner, answer: None });
            }
            Action::AskStepDown { leader, force } => {
                let term = u8::try_from(leader.term.get()).unwrap_or(u8::MAX);
                let plea = Plea { to: inst_of(leader.instance_id), term, force, granted: false };
                self.world.member_mut(self.by).plea = Some(plea);
            }
            Action::Claim(claim) => self.world.member_mut(self.by).bid = Some(bid_of(&claim)),
            Action::Release(term, why) => self.release(term, why, mind),
            Action::Exit(_) => self.ends(),
        }
    }

    /// The newest terms of the history; the older ones make no difference to the only migration there is.
    fn read_history(&mut self, mind: &Mind) {
        let Some(row) = self.world.row else { return };
        let last = i64::from(row.term);
        let [here, before] = self.world.failed;
        let past = |term, migration_failed| PastTerm { term: Term(term), migration_failed, target: TARGET };
        let held = mind.held().map_or(Term(last + 1), |held| Term(i64::from(held)));
        let newest = mind.held().map_or(Term(last), |held| Term(i64::from(held)));
        let failed = failed_targets(held, [past(last, here), past(last - 1, before)]);
        self.feed(Event::HistoryRead { newest, failed });
    }

    fn release(&mut self, term: Term, why: Ending, mind: &Mind) {
        // What was not joined still holds the term: the row is not released.
        let joined = self.world.member(self.by).write.is_none_or(|write| write.by != mind.me);
        let Some(row) = &mut self.world.row else { return };
        if joined && row.owner == mind.me && i64::from(row.term) == term.get() && !row.released {
            row.released = true;
            self.world.gave_up = true;
            self.world.failed[0] = why == Ending::TakeOverFailed;
        }
    }

    fn reads(&mut self, wire: Wire) {
        self.feed(Event::RowRead(self.world.row.map(|row| row.row())));
        if self.scene.late_answers {
            return;
        }
        if wire != Wire::Silent && self.peer_answers(wire) {
            self.answer_arrives();
        }
        self.world.member_mut(self.by).question = None;
    }

    /// What the row's address answers now, judged by the product's table.
    fn peer_answers(&mut self, wire: Wire) -> bool {
        let Some(question) = self.world.member(self.by).question else { return false };
        let reply = match (wire, &self.world.member(question.owner.slot).mind) {
            (Wire::Silent, _) => Reply::Silent,
            (Wire::Refuses, _) | (Wire::True, None) => Reply::Refused,
            (Wire::True, Some(peer)) => Reply::Status(status_of(peer)),
        };
        let row = LeaderRow { term: question.term, owner: question.owner, renewals: 0, released: false };
        let answer = match judge(&row.row(), &address_of(self.by), &reply) {
            Answer::Holds => Some(Told::Holds),
            Answer::SteppedDown { successor, .. } => Some(Told::SteppedDown(successor.map(inst_of))),
            Answer::Dead => Some(Told::Dead),
            Answer::Silent => None,
        };
        self.world.member_mut(self.by).question = answer.map(|_| Question { answer, ..question });
        true
    }

    fn answer_arrives(&mut self) -> bool {
        let Some(Question { term, answer: Some(told), .. }) = self.world.member_mut(self.by).question.take() else {
            return false;
        };
        let answer = match told {
            Told::Holds => Answer::Holds,
            Told::SteppedDown(successor) => Answer::SteppedDown { successor: successor.map(id_of), hold: TICK },
            Told::Dead => Answer::Dead,
        };
        self.feed(Event::Answered { term: Term(i64::from(term)), answer });
        true
    }

    /// The leader's door, as the leadership room answers it.
    fn plea_arrives(&mut self) -> bool {
        let (Some(plea), Some(me)) = (self.world.member(self.by).plea, self.mind()) else { return false };
        let Some(peer) = self.world.member(plea.to.slot).mind else {
            self.plea_ends(AskEnd::Failed);
            return true;
        };
        let meant = peer.me == plea.to && peer.term() == Some(plea.term);
        match peer.stand {
            Stand::SteppedDown { .. } if meant && self.scene.late_answers => {
                self.world.member_mut(self.by).plea = Some(Plea { granted: true, ..plea });
            }
            Stand::SteppedDown { .. } if meant => self.plea_ends(AskEnd::Consented),
            Stand::SteppingDown { why: Why::Asked(_) | Why::Terminating | Why::Lost | Why::Outbid, .. } if meant => {
                return false;
            }
            Stand::TakingOver { .. } | Stand::Leader { .. } | Stand::Suspended { .. } if meant => {
                let target = me.pending.then_some(TARGET);
                if target.is_some() && peer.state().refuses(target, plea.force, NOW) {
                    self.plea_ends(AskEnd::MigrationFailedBefore);
                    return true;
                }
                let candidate = Candidate { instance_id: id_of(me.me), address: address_of(self.by) };
                let event = Event::StepDownAsked { successor: Some(candidate) };
                Run { world: self.world, scene: self.scene, by: plea.to.slot }.feed(event);
            }
            _ => self.plea_ends(AskEnd::NotThatLeader),
        }
        true
    }

    fn plea_ends(&mut self, end: AskEnd) {
        self.world.member_mut(self.by).plea = None;
        self.feed(Event::AskEnded(end));
    }

    fn sessions_end(&mut self) -> bool {
        let Some(bid) = &mut self.world.member_mut(self.by).bid else { return false };
        (bid.stage, bid.age) = (Stage::Ready, 0);
        let Some((_, old)) = bid.seen else { return true };
        if !self.scene.is_off(Mutant::EndSessions) {
            for member in &mut self.world.members {
                member.write = member.write.filter(|write| write.by != old);
            }
        }
        true
    }

    /// The database carries the claim out: a compare-and-swap on the row.
    fn claim_runs(&mut self) -> bool {
        let (Some(bid), Some(mind)) = (self.world.member(self.by).bid, self.mind()) else { return false };
        let stands = match (bid.seen, self.world.row) {
            (None, None) => true,
            (Some((term, owner)), Some(row)) => {
                let compares = !bid.consent && !self.scene.is_off(Mutant::Renewals);
                row.term == term && row.owner == owner && !(compares && bid.renewed)
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        let stage = if stands { self.won(&bid, mind.me) } else { Stage::Lost };
        if let Some(bid) = &mut self.world.member_mut(self.by).bid {
            bid.stage = stage;
        }
        true
    }

    fn won(&mut self, bid: &Bid, me: Inst) -> Stage {
        let old = self.world.row;
        let last = old.map_or(0, |row| row.term);
        let term = last.max(bid.floor) + u8::from(!self.scene.is_off(Mutant::Raise) || old.is_none());
        if term <= self.world.top && !self.scene.lost_commits {
            self.world.broken = Some(Breach::TwoOwners);
        } else if !bid.consent && bid.renewed {
            self.world.broken = Some(Breach::Deposed);
        } else if old.is_some_and(|row| bid.consent && !self.world.gave_up && row.owner != me) {
            self.world.broken = Some(Breach::NoConsent);
        }
        self.world.row = Some(LeaderRow { term, owner: me, renewals: 0, released: false });
        self.world.gave_up = false;
        self.world.failed = [false, self.world.failed[0]];
        self.world.top = self.world.top.max(term);
        Stage::Won(term)
    }

    fn claim_is_known(&mut self) -> bool {
        let Some(bid) = self.world.member(self.by).bid else { return false };
        let sent_at = NOW.saturating_sub(TICK * u32::from(bid.age));
        match bid.stage {
            Stage::Won(term) => self.claim_ends(ClaimEnd::Won { term: Term(i64::from(term)), sent_at }),
            Stage::Lost => self.claim_ends(ClaimEnd::Lost),
            Stage::Decided | Stage::Ready => return false,
        }
        true
    }

    fn claim_ends(&mut self, end: ClaimEnd) {
        self.world.member_mut(self.by).bid = None;
        self.feed(Event::ClaimEnded(end));
    }

    fn renews(&mut self, heard: bool) -> bool {
        let Some((me, held)) = self.mind().and_then(|mind| Some((mind.me, mind.held()?))) else { return false };
        let mine = |row: &&mut LeaderRow| row.owner == me && row.term == held && !row.released;
        let event = match self.world.row.as_mut().filter(mine) {
            Some(row) => {
                row.renewals += 1;
                let (term, owner) = (row.term, row.owner);
                for bid in self.world.members.iter_mut().filter_map(|member| member.bid.as_mut()) {
                    bid.renewed |= bid.seen == Some((term, owner));
                }
                Event::Renewed { sent_at: NOW }
            }
            None => Event::Fenced,
        };
        if heard {
            self.feed(event);
        }
        true
    }

    fn took_over(&mut self) {
        self.world.member_mut(self.by).knows = self.world.agents.spec;
        self.feed(Event::TookOver);
    }

    /// The agent judges, and its answer reaches the sender. A generation that the database lacks is written above.
    fn push_arrives(&mut self, place: u8, again: bool) -> bool {
        let Some((sender, refusal)) = self.world.deliver(place, again, self.scene) else { return false };
        let Some(sender) = sender else { return true };
        let Some(held) = self.world.process(sender).and_then(Mind::held) else { return true };
        let (term, generation) = (self.world.agents.ledger.0, self.world.agents.ledger.1);
        match refusal {
            Some(Refusal::StaleTerm) => {
                let event = Event::Outbid { term: Term(i64::from(term)) };
                Run { world: self.world, scene: self.scene, by: sender.slot }.feed(event);
            }
            Some(Refusal::StaleGeneration | Refusal::Conflict) if self.world.holds(sender, held) => {
                let spec = &mut self.world.agents.spec;
                spec.generation = spec.generation.max(generation) + 1;
                self.world.member_mut(sender.slot).knows = self.world.agents.spec;
            }
            Some(Refusal::StaleGeneration | Refusal::Conflict | Refusal::ForeignCluster | Refusal::WrongCompute)
            | None => {}
        }
        true
    }

    fn write_begins(&mut self) -> bool {
        let Some(mind) = self.mind() else { return false };
        let (Some(term), None) = (mind.term(), self.world.member(self.by).write) else { return false };
        if self.world.holds(mind.me, term) || self.scene.is_off(Mutant::Fence) {
            self.world.member_mut(self.by).write = Some(Write { by: mind.me, term });
        } else if mind.held().is_some() {
            self.feed(Event::Fenced);
        }
        true
    }

    fn write_commits(&mut self) {
        let Some(write) = self.world.member_mut(self.by).write.take() else { return };
        if self.world.row.is_none_or(|row| row.term != write.term || row.owner != write.by) {
            self.world.broken = Some(Breach::StaleWrite);
        }
        self.world.new_generation(self.scene);
        let spec = self.world.agents.spec;
        if self.mind().is_some_and(|mind| mind.me == write.by) {
            self.world.member_mut(self.by).knows = spec;
        }
    }
}

fn is_revert(mind: &Mind, actions: &[Action]) -> bool {
    matches!(mind.stand, Stand::SteppedDown { .. }) && actions.iter().any(|action| matches!(action, Action::Claim(_)))
}

fn bid_of(claim: &Claim) -> Bid {
    let small = |term: Term| u8::try_from(term.get()).unwrap_or(u8::MAX);
    Bid {
        seen: claim.seen.map(|seen| (small(seen.term), inst_of(seen.instance_id))),
        consent: claim.seen.is_none_or(|seen| seen.renewals.is_none()),
        renewed: false,
        floor: small(claim.floor),
        end_sessions: claim.end_sessions,
        stage: Stage::Decided,
        age: 0,
    }
}

/// What a process answers to whoever asks for its status.
fn status_of(mind: &Mind) -> ControllerStatus {
    let (successor, hold) = match mind.stand {
        Stand::SteppedDown { successor, .. } => {
            let named = successor.map(|who| Candidate { instance_id: id_of(who), address: address_of(who.slot) });
            (named, Some(TICK))
        }
        _ => (None, None),
    };
    ControllerStatus {
        role: mind.role(),
        instance_id: id_of(mind.me),
        address: address_of(mind.me.slot),
        version: String::new(),
        term: mind.term().map(|term| Term(i64::from(term))),
        leader: None,
        successor,
        hold_ms: hold.map(|hold: Duration| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
    }
}
