//! Confirms in the database that a term still leads, for whoever reads from memory: one question for all that wait.
//!
//! ```text
//!   reads ──► queue ──► one question under way ──► all that were in the queue when it was sent
//! ```
//!
//! Called by the desk through [`Handle::confirm`](super::Handle::confirm). It calls persistence. A lease alone is not enough:
//! a member whose port refuses is taken for dead and replaced while its lease still runs. Invariants: a question is sent only
//! after the reads it answers have come, so every write that was acknowledged before them was this term's own and is in
//! memory; an error answers nobody with yes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_persistence::ConfirmSession;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::metrics::{Confirmation, LeadershipMetrics};

/// Reads that may wait in the queue; more wait in front of it.
const QUEUE: usize = 1024;

/// A read that waits.
struct Question {
    term: Term,
    answer: oneshot::Sender<bool>,
}

/// The way to the task.
#[derive(Debug, Clone)]
pub(super) struct Confirmer(mpsc::Sender<Question>);

/// The task's end of it.
pub(super) struct Questions(mpsc::Receiver<Question>);

pub(super) fn channel() -> (Confirmer, Questions) {
    let (ask, asked) = mpsc::channel(QUEUE);
    (Confirmer(ask), Questions(asked))
}

impl Confirmer {
    /// Whether `term` is known to lead at a moment after this call. No also means that the database did not say so.
    pub(super) async fn ask(&self, term: Term) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { term, answer }).await.is_ok() && answered.await.unwrap_or(false)
    }
}

impl Questions {
    /// Asks for whoever waits until `token` is cancelled, and keeps the session open meanwhile: a successor's first read does
    /// not wait for a connection. `deposed` hears of a term that does not lead any more.
    pub(super) async fn run(
        mut self,
        mut session: ConfirmSession,
        metrics: Arc<LeadershipMetrics>,
        look_every: Duration,
        deposed: impl Fn(Term) + Send,
        token: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut looks = tokio::time::interval(look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                // The handle outlives the room; its last clone goes with the process.
                _ = self.0.recv_many(&mut waiting, QUEUE) => {}
                _ = looks.tick() => {
                    if let Err(error) = session.warm_up().await {
                        tracing::debug!(%error, "the session that confirms reads is not open; tried again");
                    }
                }
            }
            let Some(term) = waiting.iter().map(|question| question.term).max() else { continue };
            let asked = tokio::select! {
                () = token.cancelled() => return Ok(()),
                asked = session.still_leads(term) => asked,
            };
            let outcome = match asked {
                Ok(true) => Confirmation::Leads,
                Ok(false) => {
                    deposed(term);
                    Confirmation::Deposed
                }
                Err(error) => {
                    tracing::debug!(%error, "reads cannot be confirmed; they wait or go elsewhere");
                    Confirmation::Failed
                }
            };
            metrics.confirmed(outcome);
            for question in waiting.drain(..) {
                // Whoever does not wait any more needs no answer.
                let _ = question.answer.send(outcome == Confirmation::Leads && question.term == term);
            }
        }
    }
}
