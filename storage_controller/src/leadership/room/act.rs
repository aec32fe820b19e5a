//! How the room carries out what the machine decided. What takes time runs beside the driver and reports back.

use std::sync::Arc;

use pgfleet_api::Term;
use pgfleet_api::controller::{Candidate, LeaderRef, StepDownRequest, StepDownTarget};
use pgfleet_domain::leadership::{Action, AskEnd, Claim, Ending, Event, PastTerm, failed_targets, judge};
use pgfleet_persistence::{Database, Ended};
use pgfleet_runtime::pause::PausePoint;
use pgfleet_runtime::supervisor::Kind;
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument as _;

use super::{Input, Room};
use crate::leadership::ask;
use crate::leadership::leader::Mandate;
use crate::leadership::lease::Order;
use crate::leadership::trace::{self, Trace};

/// So many terms of the history are looked at for failed migrations.
const HISTORY: i64 = 20;

impl Room {
    pub(super) async fn act(&mut self, action: Action) -> Option<Ending> {
        match action {
            // A full queue means that the database is slow; the next tick asks again.
            Action::ReadRow => drop(self.lease.try_send(Order::Read)),
            Action::ReadHistory => {
                let (database, held) = (self.database.clone(), self.state.held_term());
                self.later("read_history", async move { read_history(&database, held).await });
            }
            Action::AskStatus(row) => {
                let (peers, own) = (self.peers.clone(), self.state.config.address.clone());
                peers.note_reached(self.handle.reached());
                self.later("ask_status", async move {
                    let reply = ask::status(&peers, &row.address).await;
                    Some(Input::Event(Event::Answered { term: row.term, answer: judge(&row, &own, &reply) }))
                });
            }
            Action::AskStepDown { leader, force } => self.ask_step_down(leader, force),
            Action::Claim(claim) => self.claim(claim).await,
            Action::TakeOver(_) => self.take_over(),
            Action::Renew => self.order(Order::Renew).await,
            Action::StopLeading { flush } => self.stop_leading(flush),
            Action::Release(term, why) => self.release(term, why).await,
            Action::Exit(ending) => return Some(ending),
        }
        None
    }

    fn ask_step_down(&mut self, leader: LeaderRef, force: bool) {
        self.begin();
        let request = StepDownRequest {
            leader: StepDownTarget { instance_id: leader.instance_id, term: leader.term },
            candidate: Candidate { instance_id: self.state.config.me, address: self.state.config.address.clone() },
            target_schema: self.state.pending.clone(),
            force,
        };
        let (peers, pauses, limit) = (self.peers.clone(), self.pauses.clone(), self.settings.step_down_timeout);
        let warm = (self.warm)();
        tracing::info!(leader = %leader.address, term = %leader.term, warm, "asking the leader to step down");
        self.later("ask_step_down", async move {
            let (end, answer) = ask::step_down(&peers, &leader, &request, warm, limit).await;
            if end == AskEnd::Consented {
                pauses.at(PausePoint::AfterStepDown).await;
            }
            Some(Input::Asked(end, answer))
        });
    }

    async fn claim(&mut self, claim: Claim) {
        if self.began.is_none() {
            self.begin();
        }
        tracing::info!(how = claim.how.as_str(), over = ?claim.seen.map(|seen| seen.term.get()), "claiming leadership");
        self.order(Order::Claim(claim)).await;
    }

    pub(super) async fn order(&self, order: Order) {
        if self.lease.send(order).await.is_err() {
            tracing::debug!("the lease task has ended; the process is ending");
        }
    }

    /// Runs something outside the driver; its result comes back as an input.
    fn later(&self, name: &'static str, work: impl Future<Output = Option<Input>> + Send + 'static) {
        let reports = self.reports.clone();
        self.tasks.spawn(name, Kind::Step, async move {
            if let Some(input) = work.await {
                // The room ends before its helpers do.
                let _ = reports.send(input).await;
            }
            Ok::<_, std::convert::Infallible>(())
        });
    }

    fn take_over(&mut self) {
        let Some(leader) = &self.leader else { return };
        let number = leader.term.term();
        let handed_over = self.handed_over.take().map(|answer| answer.computes).unwrap_or_default();
        let mandate = Mandate {
            term: leader.term.clone(),
            tasks: leader.tasks.clone(),
            handed_over,
            chair: self.handle.clone(),
            metrics: self.metrics.clone(),
        };
        let (reports, work, pauses) = (self.reports.clone(), self.take_up.clone(), self.pauses.clone());
        let span = self.trace.take_up(number);
        // In the leader's own group: whoever stops the leadership joins its beginning, too.
        leader.tasks.spawn("take_up", Kind::Step, async move {
            pauses.at(PausePoint::AfterClaim).await;
            let outcome = work(mandate).instrument(span).await;
            let _ = reports.send(Input::TookUp(number, outcome)).await;
            Ok::<_, std::convert::Infallible>(())
        });
    }

    /// Ends a leadership that never began to work, so that its row can be released.
    pub(super) async fn end_failed(&mut self) {
        if let Some(leader) = self.leader.take() {
            let_go(&self.lease).await;
            self.ended_term = leader.stop(false, self.settings.step_down_grace).await.1;
        }
    }

    fn stop_leading(&mut self, flush: bool) {
        self.began = None;
        self.trace = Trace::default();
        let Some(leader) = self.leader.take() else { return };
        let (lease, grace) = (self.lease.clone(), self.settings.step_down_grace);
        self.later("stop_leading", async move {
            let span = trace::step_down(leader.term.term(), flush);
            let ending = async {
                let_go(&lease).await;
                leader.stop(flush, grace).await
            };
            let (answer, term) = ending.instrument(span.clone()).await;
            span.record("complete", answer.complete);
            tracing::info!(term = %answer.term, complete = answer.complete, "leadership ended");
            Some(Input::Stopped(answer, term))
        });
    }

    pub(super) async fn release(&mut self, number: Term, why: Ending) {
        let Some(term) = self.ended_term.take().filter(|term| term.term() == number) else {
            tracing::warn!(term = %number, "the row is not released: not everything of this term has ended; the next leader ends it");
            return;
        };
        let (how, note) = match (why, self.failure.take()) {
            (Ending::TakeOverFailed, Some((how, reason))) => (how, Some(reason)),
            (Ending::TakeOverFailed, None) => (Ended::TakeOverFailed, None),
            (Ending::Done | Ending::Unauthorized, _) => (Ended::Released, None),
        };
        let (done, released) = oneshot::channel();
        self.order(Order::Release { term, how, note, done }).await;
        let _ = released.await;
    }
}

/// Has the lease task stop renewing and give its clone of the term back.
async fn let_go(lease: &mpsc::Sender<Order>) {
    let (done, gone) = oneshot::channel();
    // Errors mean that the task has ended, and its clone with it.
    if lease.send(Order::LetGo(done)).await.is_ok() {
        let _ = gone.await;
    }
}

/// What ended by a failed migration: before the term that is held, or at the end of the history.
async fn read_history(database: &Arc<Database>, held: Option<Term>) -> Option<Input> {
    let terms = match database.leader_history(HISTORY).await {
        Ok(terms) => terms,
        Err(error) => {
            tracing::warn!(%error, "cannot read the history of leadership; migrations that failed are not known");
            return None;
        }
    };
    let last = terms.first()?.term;
    let (newest, before) = held.map_or((last, Term(last.get() + 1)), |held| (held, held));
    let past = terms.iter().map(|past| PastTerm {
        term: past.term,
        migration_failed: past.ended.as_deref() == Some(Ended::MigrationFailed.as_str()),
        target: &past.target_schema,
    });
    Some(Input::Event(Event::HistoryRead { newest, failed: failed_targets(before, past) }))
}
