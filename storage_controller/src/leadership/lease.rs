//! The task that owns the connection to the leader row: reads, claims, renews, releases, one thing at a time.
//!
//! While a term is held it does nothing but renew, so a long migration or a busy writer cannot look like a dead leader.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::controller::LeaderView;
use pgfleet_domain::leadership::{Claim, ClaimEnd, Event, Row};
use pgfleet_persistence::{ClaimOutcome, DbError, Ended, ErrorClass, LeaderTerm, LeaseSession, Renewed};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::clock::now;
use super::metrics::LeadershipMetrics;
use super::room::Input;

/// How long the old leader's sessions get to leave before the claim is tried all the same: it then waits for their locks.
const SESSIONS_LEAVE: Duration = Duration::from_secs(1);
/// Tries of a claim that waits for somebody's lock.
const CLAIM_TRIES: u32 = 8;

/// What the room wants of the row.
pub(super) enum Order {
    Read,
    Claim(Claim),
    /// Renew from now on.
    Hold(Arc<LeaderTerm>),
    /// Stop renewing; answered once no clone of the term is left here.
    LetGo(oneshot::Sender<()>),
    Release {
        term: LeaderTerm,
        how: Ended,
        /// A line for people, for the history.
        note: Option<String>,
        done: oneshot::Sender<()>,
    },
}

/// The task's settings and tools.
pub(super) struct Lease {
    pub(super) session: LeaseSession,
    pub(super) address: String,
    pub(super) lease: Duration,
    pub(super) renew: Duration,
    pub(super) metrics: Arc<LeadershipMetrics>,
    pub(super) reports: mpsc::Sender<Input>,
}

impl Lease {
    pub(super) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        token: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let mut held: Option<Arc<LeaderTerm>> = None;
        let mut ticks = interval_at(Instant::now(), self.renew);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                order = orders.recv() => match order {
                    // The room has ended in order; this task is vital and must not end before it is told to.
                    None => {
                        token.cancelled().await;
                        return Ok(());
                    }
                    Some(Order::Hold(term)) => {
                        held = Some(term);
                        ticks.reset();
                    }
                    Some(Order::LetGo(done)) => {
                        held = None;
                        // The room may have stopped waiting: it is ending.
                        let _ = done.send(());
                    }
                    Some(order) => self.carry_out(order).await,
                },
                _ = ticks.tick(), if held.is_some() => {
                    if let Some(term) = &held {
                        self.renew(term).await;
                    }
                }
            }
        }
    }

    async fn report(&self, input: Input) {
        // The room ends before this task does; then nobody needs the report.
        let _ = self.reports.send(input).await;
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Hold(_) | Order::LetGo(_) => {}
            Order::Read => match self.session.read().await {
                Ok(row) => self.report(Input::Event(Event::RowRead(row.map(row_of)))).await,
                Err(error) => tracing::warn!(%error, "cannot read the leader row; tried again"),
            },
            Order::Claim(claim) => {
                let input = self.claim(claim).await;
                self.report(input).await;
            }
            Order::Release { term, how, note, done } => {
                match self.session.release(&term, how, note.as_deref()).await {
                    Ok(true) => tracing::info!(term = %term.term(), "leader row released"),
                    Ok(false) => tracing::info!(term = %term.term(), "the leader row is somebody else's already"),
                    Err(error) => {
                        tracing::warn!(term = %term.term(), %error, "cannot release the leader row; the next leader waits for the lease");
                    }
                }
                let _ = done.send(());
            }
        }
    }

    async fn renew(&mut self, term: &LeaderTerm) {
        let sent_at = now();
        match self.session.renew(term).await {
            Ok(Renewed::Yes) => self.report(Input::Event(Event::Renewed { sent_at })).await,
            Ok(Renewed::NotMine) => {
                tracing::warn!(term = %term.term(), "the leader row is not ours any more");
                self.report(Input::Event(Event::Fenced)).await;
            }
            Err(error) => {
                self.metrics.renewal_failed();
                tracing::warn!(term = %term.term(), %error, "cannot renew the lease; tried again until it runs out");
            }
        }
    }

    async fn claim(&mut self, claim: Claim) -> Input {
        let how = claim.how;
        for _ in 0..CLAIM_TRIES {
            let sent_at = now();
            match self.claim_once(&claim).await {
                Ok(ClaimOutcome::Won(term)) => return Input::Won { term, how, sent_at },
                Ok(ClaimOutcome::Lost) => return Input::Event(Event::ClaimEnded(ClaimEnd::Lost)),
                Err(error) if error.class() == ErrorClass::LockTimeout => {
                    tracing::info!("the claim waits for a write of the old leader to end");
                }
                Err(error) => {
                    tracing::warn!(%error, "the claim failed; the row decides what comes next");
                    break;
                }
            }
        }
        Input::Event(Event::ClaimEnded(ClaimEnd::Failed))
    }

    async fn claim_once(&mut self, claim: &Claim) -> Result<ClaimOutcome, DbError> {
        if let (true, Some(seen)) = (claim.end_sessions, claim.seen) {
            let gone = self.session.end_sessions_of(seen.instance_id, SESSIONS_LEAVE).await?;
            if gone.ended > 0 {
                tracing::info!(term = %seen.term, sessions = gone.ended, left = gone.left, "ended the old leader's database sessions");
            }
        }
        let lease_ms = i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX);
        let request = pgfleet_persistence::Claim {
            seen: claim.seen,
            floor: claim.floor,
            address: self.address.clone(),
            lease_ms,
            how: claim.how,
        };
        self.session.claim(&request).await
    }
}

fn row_of(row: LeaderView) -> Row {
    Row {
        term: row.term,
        instance_id: row.instance_id,
        address: row.address,
        renewals: row.renewals,
        lease: Duration::from_millis(u64::try_from(row.lease_ms).unwrap_or(0)),
        released: row.released_at.is_some(),
    }
}
