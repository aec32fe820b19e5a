//! What other rooms hold of the chair: where this member stands, and how to ask it to step down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgfleet_api::controller::{Candidate, LeaderRef, Member, Role, StepDownResponse, StepDownTarget};
use pgfleet_api::{InstanceId, Term};
use tokio::sync::{mpsc, oneshot, watch};

use super::clock::now;

/// A member that was not heard of for this long is not listed.
const FORGET_AFTER: Duration = Duration::from_secs(5);

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

/// The request names a leadership that this member does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this member does not lead in that term")]
pub struct NotThatLeader {
    /// Who does, as far as it knows.
    pub leader: Option<LeaderRef>,
}

pub(super) type StepDownAnswer = Result<Arc<StepDownResponse>, NotThatLeader>;

pub(super) enum Request {
    StepDown { target: Option<StepDownTarget>, successor: Option<Candidate>, answer: oneshot::Sender<StepDownAnswer> },
    Fenced(Term),
    Heard(LeaderRef),
    MayLead(bool),
}

struct Heard {
    address: String,
    version: String,
    at: Instant,
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

    fn holds_at(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.0.load(Ordering::SeqCst))
    }
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) me: InstanceId,
    pub(super) address: Arc<str>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) proof: Proof,
    members: Arc<Mutex<BTreeMap<InstanceId, Heard>>>,
}

impl Handle {
    pub(super) fn new(
        me: InstanceId,
        address: &str,
        standing: watch::Receiver<Standing>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self { me, address: Arc::from(address), standing, requests, proof: Proof::default(), members: Arc::default() }
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

    /// Where it stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Whether it may act as the leader at this very moment: its role says so and its lease is proved. A process that was
    /// frozen finds its role unchanged when it wakes, but not its proof.
    #[must_use]
    pub fn may_act(&self) -> bool {
        self.standing.borrow().role == Role::Leader && self.proof.holds_at(now())
    }

    /// Returns when this member no longer leads in `term`: for requests that wait and must not outlive the leadership.
    pub async fn left(&self, term: Term) {
        let mut standing = self.standing.clone();
        // An error means that the room is gone, and with it the leadership.
        let _ = standing.wait_for(|now| now.role != Role::Leader || now.term != Some(term)).await;
    }

    /// Steps down and waits until it is done. Repeatable: the same answer comes again.
    ///
    /// # Errors
    /// [`NotThatLeader`]; also when the process is ending.
    pub async fn step_down(
        &self,
        target: Option<StepDownTarget>,
        successor: Option<Candidate>,
    ) -> Result<Arc<StepDownResponse>, NotThatLeader> {
        let (answer, answered) = oneshot::channel();
        let gone = || NotThatLeader { leader: self.standing().leader };
        self.requests.send(Request::StepDown { target, successor, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Reports that the database refused a write of this term.
    pub async fn fenced(&self, term: Term) {
        // A room that is gone needs no report.
        let _ = self.requests.send(Request::Fenced(term)).await;
    }

    /// Where this member stands, and every change of it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Notes a leader that somebody else named. Only a higher term than is known moves [`Standing::leader`].
    pub async fn heard(&self, leader: LeaderRef) {
        // A room that is gone needs no report.
        let _ = self.requests.send(Request::Heard(leader)).await;
    }

    /// Whether this build may lead on the schema there is; one that may not asks nobody and claims nothing.
    pub async fn set_may_lead(&self, may: bool) {
        // A room that is gone leads nothing.
        let _ = self.requests.send(Request::MayLead(may)).await;
    }

    /// Notes a peer that asked for the status of this member.
    pub fn heard_of(&self, peer: InstanceId, address: &str, version: &str) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|_, heard| heard.at.elapsed() < FORGET_AFTER);
        let heard = Heard { address: address.to_owned(), version: version.to_owned(), at: Instant::now() };
        members.insert(peer, heard);
    }

    /// This member and the peers it heard of lately.
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
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let peers = members.iter().filter(|(_, heard)| heard.at.elapsed() < FORGET_AFTER);
        list.extend(peers.map(|(id, heard)| Member {
            instance_id: *id,
            address: heard.address.clone(),
            version: heard.version.clone(),
            role: Role::Candidate,
            last_seen_ms: u64::try_from(heard.at.elapsed().as_millis()).unwrap_or(u64::MAX),
            lag: None,
        }));
        if let Some(peers) = list.get_mut(1..) {
            peers.sort_by(|a, b| a.address.cmp(&b.address));
        }
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
        proof.set(None);
        assert!(!proof.holds_at(at(3999)), "given up");
    }
}
