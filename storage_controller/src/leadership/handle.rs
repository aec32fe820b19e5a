//! What other rooms hold of the chair: where this member stands, and how to ask it to step down or to take over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgfleet_api::controller::{Candidate, LeaderRef, Member, Role, StepDownRequest, TakeOverResponse};
use pgfleet_api::{InstanceId, Term};
use pgfleet_domain::leadership::Config;
use tokio::sync::{mpsc, oneshot, watch};

use super::clock::now;
use super::confirm::Confirmer;
use super::follow::Lines;
use super::leader::SteppedDown;
use super::losses::Losses;
use super::members::{Members, Peer};
use super::metrics::LeadershipMetrics;

/// Where this member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its role.
    pub role: Role,
    /// Its own term, while it holds one or after it stepped down from it.
    pub term: Option<Term>,
    /// Who leads, as far as it knows.
    pub leader: Option<LeaderRef>,
    /// After a step-down: for whom.
    pub successor: Option<Candidate>,
}

/// Why a member does not step down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepDownRefusal {
    /// The request names a leadership that this member does not hold.
    #[error("this member does not lead in that term")]
    NotThatLeader {
        /// Who does, as far as it knows.
        leader: Option<LeaderRef>,
    },
    /// The candidate's migration ended a term a short while ago.
    #[error(
        "migration {target} failed a short while ago: nobody steps down for it yet; repair it, or take over by force"
    )]
    MigrationFailedBefore {
        /// The newest migration that the candidate would run.
        target: String,
        /// Who leads on.
        leader: Option<LeaderRef>,
    },
}

/// Why a member did not take over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeOverRefusal {
    /// Its program may not lead on the schema there is, or its process is ending.
    #[error("this member cannot lead: its program is older than the schema allows, or its process is ending")]
    CannotLead,
    /// The leader stays because of it.
    #[error("the leader stays: this member's migration failed a short while ago; repair it, or take over by force")]
    MigrationFailedBefore,
    /// The leader does not accept this member's token.
    #[error("the leader does not accept this member's token: give all members the same keys")]
    Unauthorized,
    /// Neither the leader nor the database let it happen in time.
    #[error("the leadership did not come over in time; the leader, if there is one, leads on")]
    NotInTime {
        /// Who leads, as far as it knows.
        leader: Option<LeaderRef>,
    },
}

pub(super) type StepDownAnswer = Result<Arc<SteppedDown>, StepDownRefusal>;
pub(super) type TakeOverAnswer = Result<TakeOverResponse, TakeOverRefusal>;

pub(super) enum Request {
    StepDown { request: Option<StepDownRequest>, answer: oneshot::Sender<StepDownAnswer> },
    TakeOver { force: bool, answer: oneshot::Sender<TakeOverAnswer> },
    Fenced(Term),
    Outbid { own: Term, seen: Term },
    Heard(LeaderRef),
    Pending(Option<String>),
    MayLead(bool),
}

/// Until when this member's lease is proved, in milliseconds of its own clock; 0 while it holds none.
///
/// Beside the standing, because it moves with every renewal and nobody waits for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof(Arc<AtomicU64>);

impl Proof {
    pub(super) fn set(&self, until: Option<Duration>) {
        let until = until.map_or(0, |until| u64::try_from(until.as_millis()).unwrap_or(u64::MAX));
        self.0.store(until, Ordering::SeqCst);
    }

    /// How long ago the renewal was sent that proves `valid` of time; zero if none does.
    fn age_at(&self, now: Duration, valid: Duration) -> Duration {
        match self.0.load(Ordering::SeqCst) {
            0 => Duration::ZERO,
            until => (now + valid).saturating_sub(Duration::from_millis(until)),
        }
    }

    fn holds_at(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.0.load(Ordering::SeqCst))
    }
}

/// How long a read waits for its confirmation before it is held like one without a leader.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(500);

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    me: InstanceId,
    address: Arc<str>,
    hold: Duration,
    renew: Duration,
    /// How long a renewal proves the lease.
    valid: Duration,
    standing: watch::Receiver<Standing>,
    requests: mpsc::Sender<Request>,
    confirmer: Confirmer,
    pub(super) proof: Proof,
    reached: Arc<watch::Sender<i64>>,
    members: Members,
    losses: Losses,
}

impl Handle {
    pub(super) fn new(
        machine: &Config,
        standing: watch::Receiver<Standing>,
        requests: mpsc::Sender<Request>,
        confirmer: Confirmer,
        metrics: Arc<LeadershipMetrics>,
        losses: Losses,
    ) -> Self {
        Self {
            me: machine.me,
            address: Arc::from(machine.address.as_str()),
            hold: machine.hold,
            renew: machine.renew,
            valid: machine.lease.saturating_sub(machine.margin),
            standing,
            requests,
            confirmer,
            proof: Proof::default(),
            reached: Arc::new(watch::Sender::new(0)),
            members: Members::new(metrics),
            losses,
        }
    }

    /// This process.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.me
    }

    /// Base URL of this member.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How long everybody but the successor leaves a term alone after this member stepped down from it.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// Where it stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Time since the renewal was sent that this member goes by; zero if it holds no term.
    #[must_use]
    pub fn lease_age(&self) -> Duration {
        self.proof.age_at(now(), self.valid)
    }

    /// Whether it may act as the leader at this very moment: its role says so and its lease is proved. A process that was
    /// frozen finds its role unchanged when it wakes, but not its proof.
    #[must_use]
    pub fn may_act(&self) -> bool {
        self.standing.borrow().role == Role::Leader && self.proof.holds_at(now())
    }

    /// Whether the database says, after this call, that this member leads in `term`: what is read from memory then is as
    /// new as every write that was acknowledged before the call. No also means that it did not say so in time, or that this
    /// member stopped leading meanwhile.
    pub async fn confirm(&self, term: Term) -> bool {
        tokio::select! {
            confirmed = tokio::time::timeout(CONFIRMED_WITHIN, self.confirmer.ask(term)) => confirmed.unwrap_or(false),
            () = self.left(term) => false,
        }
    }

    /// Returns when this member no longer leads in `term`: for requests that wait and must not outlive the leadership. A
    /// suspension counts as an end: what waits goes on elsewhere, or here when it is over.
    pub async fn left(&self, term: Term) {
        let mut standing = self.standing.clone();
        // An error means that the room is gone, and with it the leadership.
        let _ = standing.wait_for(|now| now.role != Role::Leader || now.term != Some(term)).await;
    }

    /// Steps down and waits until it is done. Without a request: whoever this is, for nobody in particular. Repeatable: the
    /// same answer comes again.
    ///
    /// # Errors
    /// [`StepDownRefusal`]; also when the process is ending.
    pub async fn step_down(&self, request: Option<StepDownRequest>) -> Result<Arc<SteppedDown>, StepDownRefusal> {
        let (answer, answered) = oneshot::channel();
        let gone = || StepDownRefusal::NotThatLeader { leader: self.standing().leader };
        self.requests.send(Request::StepDown { request, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Takes over, asking the leader to step down if there is one, and waits until this member leads and serves. A member
    /// that leads says so at once. A caller that goes away stops nothing.
    ///
    /// # Errors
    /// [`TakeOverRefusal`].
    pub async fn take_over(&self, force: bool) -> Result<TakeOverResponse, TakeOverRefusal> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| TakeOverRefusal::CannotLead;
        self.requests.send(Request::TakeOver { force, answer }).await.map_err(|_| TakeOverRefusal::CannotLead)?;
        answered.await.map_err(gone)?
    }

    /// Reports that the database refused a write of this term.
    pub async fn fenced(&self, term: Term) {
        self.tell(Request::Fenced(term)).await;
    }

    /// The same from a task that must not wait. A report that finds no room is made again by the next read.
    pub(super) fn deposed(&self, term: Term) {
        let _ = self.requests.try_send(Request::Fenced(term));
    }

    /// Reports that an agent refuses the term `own` because it has seen a later one. A report that finds no room is made
    /// again by the next refusal.
    pub fn outbid(&self, own: Term, seen: Term) {
        let _ = self.requests.try_send(Request::Outbid { own, seen });
    }

    /// What the database was found to have lost.
    #[must_use]
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Where this member stands, and every change of it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Notes a leader that somebody else named. Only a higher term than is known moves [`Standing::leader`].
    pub async fn heard(&self, leader: LeaderRef) {
        self.tell(Request::Heard(leader)).await;
    }

    /// Tells which migration this program would run last, if any: with it, it is let in less easily once it has failed.
    pub async fn set_pending(&self, newest: Option<String>) {
        self.tell(Request::Pending(newest)).await;
    }

    /// Tells whether this program may lead on the schema there is. One that may not claims nothing and asks nobody.
    pub async fn set_may_lead(&self, may: bool) {
        self.tell(Request::MayLead(may)).await;
    }

    async fn tell(&self, request: Request) {
        // A room that is gone needs no report.
        let _ = self.requests.send(request).await;
    }

    /// Notes the last change that this member has committed or followed.
    pub fn note_reached(&self, change_seq: i64) {
        self.reached.send_if_modified(|known| std::mem::replace(known, change_seq) != change_seq);
    }

    /// The last change that was noted; 0 before the first.
    #[must_use]
    pub fn reached(&self) -> i64 {
        *self.reached.borrow()
    }

    /// The same for the task that renews.
    pub(super) fn follow_reached(&self) -> watch::Receiver<i64> {
        self.reached.subscribe()
    }

    /// A stream of where this member stands, for a peer that is registered as long as it reads; an operator's is not.
    #[must_use]
    pub fn follow(&self, peer: Option<Peer>) -> Lines {
        let registration = peer.map(|peer| self.members.register(peer));
        Lines::new(self.me, self.renew, self.standing.clone(), self.reached.subscribe(), registration)
    }

    /// Notes a peer that asked for the status of this member.
    pub fn heard_of(&self, peer: Peer) {
        self.members.heard_of(peer);
    }

    /// This member and the peers that follow it.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let mut list = vec![Member {
            instance_id: self.me,
            address: self.address.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: self.standing().role,
            last_seen_ms: 0,
            lag: None,
        }];
        list.extend(self.members.list(self.reached()));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_ends_by_itself() {
        let proof = Proof::default();
        let at = Duration::from_millis;
        assert!(!proof.holds_at(at(0)), "nothing is held");
        proof.set(Some(at(4000)));
        assert!(proof.holds_at(at(3999)));
        assert!(!proof.holds_at(at(4000)));
        assert_eq!(proof.age_at(at(1500), at(3000)), at(500), "it was sent at 1000");
        proof.set(None);
        assert!(!proof.holds_at(at(3999)), "given up");
        assert_eq!(proof.age_at(at(9000), at(3000)), Duration::ZERO);
    }
}
