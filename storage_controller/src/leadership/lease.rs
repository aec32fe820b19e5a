//! The task that owns the connection to the leader row: reads, claims, renews, releases, one thing at a time.
//!
//! While a term is held it does nothing but renew, so a long migration or a busy writer cannot look like a dead leader. A
//! renewal that failed is tried again at once and again: after a restart of the database the leader is the first to have
//! the row. One that hangs is abandoned as soon as the room wants something else; a renewal does no harm whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::controller::LeaderView;
use pgfleet_domain::leadership::{Claim, ClaimEnd, Event, Row, Seen};
use pgfleet_persistence::{ClaimOutcome, DbError, Ended, ErrorClass, LeaderTerm, LeaseSession, Renewed};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::clock::now;
use super::metrics::LeadershipMetrics;
use super::room::Input;

/// How long it is watched, after a claim without consent, that the old leader's sessions leave.
const SESSIONS_LEAVE: Duration = Duration::from_secs(1);
/// Between two tries of a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_millis(75);
/// Tries of a claim that waits for somebody's lock.
const CLAIM_TRIES: u32 = 8;

/// What the room wants of the row.
pub(super) enum Order {
    Read,
    /// With the newest migration that would be run.
    Claim(Claim),
    /// Renew from now on.
    Hold(Arc<LeaderTerm>),
    /// Renew at once: somebody may have claimed.
    Renew,
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
    /// How far this member's knowledge reaches.
    pub(super) reached: watch::Receiver<i64>,
    /// Failures in a row; only the first is worth a line.
    pub(super) failures: u32,
    pub(super) warm: bool,
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
            let renewing = async {
                let Some(term) = &held else { return std::future::pending().await };
                ticks.tick().await;
                if !self.renew(term).await {
                    ticks.reset_after(RENEW_AGAIN);
                }
            };
            let order = tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                order = orders.recv() => order,
                () = renewing => continue,
            };
            match order {
                // The room has ended in order; this task is vital and must not end before it is told to.
                None => {
                    token.cancelled().await;
                    return Ok(());
                }
                Some(Order::Hold(term)) => {
                    held = Some(term);
                    ticks.reset();
                }
                Some(Order::Renew) => ticks.reset_immediately(),
                Some(Order::LetGo(done)) => {
                    held = None;
                    // The room may have stopped waiting: it is ending.
                    let _ = done.send(());
                }
                Some(order) => self.carry_out(order).await,
            }
        }
    }

    async fn report(&self, input: Input) {
        // The room ends before this task does; then nobody needs the report.
        let _ = self.reports.send(input).await;
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Hold(_) | Order::Renew | Order::LetGo(_) => {}
            Order::Read => match self.session.read().await {
                Ok(row) => {
                    self.failures = 0;
                    // Before the room may ask for a step-down: from then on somebody waits for the claim.
                    self.warm_up().await;
                    self.report(Input::Event(Event::RowRead(row.map(row_of)))).await;
                }
                Err(error) => {
                    self.failed(&error, "cannot read the leader row; tried again");
                    self.warm = false;
                    self.report(Input::Event(Event::ReadFailed)).await;
                }
            },
            Order::Claim(claim) => {
                let input = self.claim(claim).await;
                let won = matches!(input, Input::Won { .. });
                self.report(input).await;
                if let (true, true, Some(seen)) = (won, claim.end_sessions, claim.seen) {
                    self.watch_sessions_leave(seen).await;
                }
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

    /// Says the first failure in a row aloud: they come many times a second while a database is away.
    fn failed(&mut self, error: &DbError, what: &'static str) {
        if self.failures == 0 {
            tracing::warn!(%error, "{what}");
        } else {
            tracing::debug!(%error, failures = self.failures, "{what}");
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// After the first reading of a session.
    async fn warm_up(&mut self) {
        if !self.warm {
            self.warm = true;
            if let Err(error) = self.session.warm_up().await {
                tracing::debug!(%error, "the statements of a claim are not prepared; a claim takes longer");
            }
        }
    }

    /// Whether the next renewal is due at its usual time.
    async fn renew(&mut self, term: &LeaderTerm) -> bool {
        // What was committed before the renewal is sent has to be there when it is carried out.
        let (sent_at, reached) = (now(), *self.reached.borrow());
        match self.session.renew_and_look(term).await {
            Ok((Renewed::Yes, head)) => {
                if self.failures > 0 {
                    tracing::info!(term = %term.term(), failures = self.failures, "the lease is renewed again");
                    self.failures = 0;
                }
                self.report(Input::Renewed { sent_at, reached, head }).await;
                true
            }
            Ok((Renewed::NotMine, _)) => {
                tracing::warn!(term = %term.term(), "the leader row is not ours any more");
                self.report(Input::Event(Event::Fenced)).await;
                true
            }
            Err(error) => {
                self.metrics.renewal_failed();
                self.failed(&error, "cannot renew the lease; tried again until it can be");
                false
            }
        }
    }

    async fn claim(&mut self, claim: Claim) -> Input {
        let how = claim.how;
        let lease_ms = i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX);
        let address = self.address.clone();
        let request = pgfleet_persistence::Claim { seen: claim.seen, floor: claim.floor, address, lease_ms, how };
        for _ in 0..CLAIM_TRIES {
            let sent_at = now();
            match self.claim_once(&claim, &request).await {
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

    async fn claim_once(
        &mut self,
        claim: &Claim,
        request: &pgfleet_persistence::Claim,
    ) -> Result<ClaimOutcome, DbError> {
        // They are told to end and not waited for: whatever of theirs is still open holds the fence's lock, which the claim
        // waits for, and whatever comes later finds another term.
        if let (true, Some(seen)) = (claim.end_sessions, claim.seen) {
            let told = self.session.end_sessions_of(seen.instance_id, Duration::ZERO).await?;
            if told.ended > 0 {
                tracing::info!(term = %seen.term, sessions = told.ended, "ended the old leader's database sessions");
            }
        }
        self.session.claim(request).await
    }

    /// After the claim, so that nobody waits for it.
    async fn watch_sessions_leave(&mut self, seen: Seen) {
        match self.session.end_sessions_of(seen.instance_id, SESSIONS_LEAVE).await {
            Ok(gone) if gone.left > 0 => {
                tracing::warn!(term = %seen.term, sessions = gone.left, "database sessions of the old leader do not end; the fence stops them");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot see whether the old leader's sessions have ended"),
        }
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
