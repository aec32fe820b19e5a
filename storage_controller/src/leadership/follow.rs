//! The follow stream: what a member tells those who follow it, and the task that follows the leader.
//!
//! A killed process' connections are closed by its kernel within a millisecond. That proves nothing, so the end of a
//! stream only wakes: then the row is read, its address asked, and the answer table decides.

use std::convert::Infallible;
use std::time::Duration;

use pgfleet_api::InstanceId;
use pgfleet_api::controller::{FollowLine, LeaderRef, Role};
use pgfleet_clients::peer::{FollowEnd, PeerClient};
use pgfleet_domain::leadership::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{Handle, Standing};
use super::members::Registration;
use super::metrics::Wake;
use super::room::Input;

/// Changes of the fleet are told at most this often; changes of standing at once.
const COALESCE: Duration = Duration::from_millis(50);
/// The first pause after a stream that ended; it doubles up to one renewal.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// What one follower is told.
pub struct Lines {
    me: InstanceId,
    renew: Duration,
    standing: watch::Receiver<Standing>,
    reached: watch::Receiver<i64>,
    told_at: Option<Instant>,
    _registration: Option<Registration>,
}

impl Lines {
    pub(super) fn new(
        me: InstanceId,
        renew: Duration,
        standing: watch::Receiver<Standing>,
        reached: watch::Receiver<i64>,
        registration: Option<Registration>,
    ) -> Self {
        Self { me, renew, standing, reached, told_at: None, _registration: registration }
    }

    /// The next line; `None` when the chair is empty because the process ends.
    pub async fn next(&mut self) -> Option<FollowLine> {
        if let Some(told_at) = self.told_at {
            let reached = &mut self.reached;
            let further = async {
                tokio::time::sleep_until(told_at + COALESCE).await;
                // Its sender lives in every handle; without one the standing ends, too.
                if reached.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                changed = self.standing.changed() => changed.ok()?,
                () = further => {}
                () = tokio::time::sleep_until(told_at + self.renew) => {}
            }
        }
        self.told_at = Some(Instant::now());
        let standing = self.standing.borrow_and_update().clone();
        let change_seq = match standing.role {
            Role::Leader | Role::Suspended => *self.reached.borrow_and_update(),
            Role::Candidate | Role::TakingOver | Role::SteppingDown | Role::SteppedDown => 0,
        };
        let Standing { role, term, leader, successor } = standing;
        Some(FollowLine { instance_id: self.me, role, term, leader, successor, change_seq })
    }
}

/// Follows whoever leads, for as long as the room lives.
pub(super) async fn follow(
    handle: Handle,
    peers: PeerClient,
    renew: Duration,
    reports: mpsc::Sender<Input>,
    token: CancellationToken,
) -> Result<(), Infallible> {
    let mut standing = handle.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        let leader = whom(&standing.borrow_and_update(), handle.instance_id());
        let follower = async {
            let Some(leader) = leader.clone() else { return std::future::pending().await };
            peers.note_reached(handle.reached());
            stream(&peers, &leader, renew, &reports, &mut pause).await
        };
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            // Another leader, or none, or it is this member's turn.
            () = other(&mut standing, leader.as_ref(), handle.instance_id()) => pause = FIRST_PAUSE,
            end = follower => {
                tracing::debug!(%end, "the stream to the leader ended");
                // The room ends before this task does.
                let _ = reports.send(Input::Woken(Wake::Stream)).await;
                tokio::select! {
                    () = token.cancelled() => return Ok(()),
                    () = other(&mut standing, leader.as_ref(), handle.instance_id()) => pause = FIRST_PAUSE,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(renew),
                }
            }
        }
    }
}

/// Whom a member in this standing follows.
fn whom(standing: &Standing, me: InstanceId) -> Option<LeaderRef> {
    match standing.role {
        Role::Candidate | Role::SteppedDown => standing.leader.clone().filter(|leader| leader.instance_id != me),
        Role::TakingOver | Role::Leader | Role::Suspended | Role::SteppingDown => None,
    }
}

/// Returns when somebody else than `leader` is to be followed.
async fn other(standing: &mut watch::Receiver<Standing>, leader: Option<&LeaderRef>, me: InstanceId) {
    if standing.wait_for(|now| whom(now, me).as_ref() != leader).await.is_err() {
        // The room is gone; the token ends this task.
        std::future::pending::<()>().await;
    }
}

/// One stream, from its beginning to its end. While it is open a connection for a step-down is kept warm beside it.
async fn stream(
    peers: &PeerClient,
    leader: &LeaderRef,
    renew: Duration,
    reports: &mpsc::Sender<Input>,
    pause: &mut Duration,
) -> FollowEnd {
    let silence = renew * 3;
    let mut stream = match peers.follow(&leader.address, silence).await {
        Ok(stream) => stream,
        Err(end) => return end,
    };
    let mut warmed: Option<Instant> = None;
    loop {
        let line = match stream.next(silence).await {
            Ok(line) => line,
            Err(end) => return end,
        };
        *pause = FIRST_PAUSE;
        let first = warmed.is_none();
        if let Some(input) = told(&line, leader, first) {
            let _ = reports.send(input).await;
        }
        if let Some(named) = line.leader {
            let _ = reports.send(Input::Event(Event::Heard(named))).await;
        }
        if warmed.is_none_or(|at| at.elapsed() > WARM_EVERY) {
            warmed = Some(Instant::now());
            peers.warm_up(&leader.address, renew).await;
        }
    }
}

/// Shorter than an idle connection is kept.
const WARM_EVERY: Duration = Duration::from_secs(10);

/// What a line is worth to the machine.
fn told(line: &FollowLine, leader: &LeaderRef, first: bool) -> Option<Input> {
    // Somebody else has the address: the process that is followed is gone.
    if line.instance_id != leader.instance_id {
        return first.then_some(Input::Woken(Wake::Line));
    }
    match line.role {
        Role::SteppingDown => Some(Input::Event(Event::HandOverSeen)),
        Role::SteppedDown => Some(Input::Woken(Wake::Line)),
        // It lost its term; the row says to whom.
        Role::Candidate => first.then_some(Input::Woken(Wake::Line)),
        Role::TakingOver | Role::Leader | Role::Suspended => None,
    }
}

#[cfg(test)]
mod tests {
    use pgfleet_api::Term;

    use super::*;

    fn standing(role: Role) -> Standing {
        Standing { role, term: Some(Term(3)), leader: None, successor: None }
    }

    async fn within(lines: &mut Lines, limit: Duration) -> Option<Option<FollowLine>> {
        tokio::time::timeout(limit, lines.next()).await.ok()
    }

    #[tokio::test]
    async fn a_line_comes_at_once_at_each_change_and_as_a_sign_of_life() {
        let (told, seen) = watch::channel(standing(Role::Leader));
        let reached = watch::Sender::new(7);
        let me = InstanceId::generate();
        let renew = Duration::from_secs(2);
        let mut lines = Lines::new(me, renew, seen, reached.subscribe(), None);
        let (soon, late) = (Duration::from_secs(1), Duration::from_secs(30));
        let first = within(&mut lines, soon).await.unwrap().unwrap();
        assert_eq!((first.instance_id, first.role, first.change_seq), (me, Role::Leader, 7));
        assert_eq!(within(&mut lines, Duration::from_millis(200)).await, None, "nothing changed");
        let waited = Instant::now();
        assert!(within(&mut lines, late).await.is_some(), "a sign of life");
        assert!(waited.elapsed() > soon);

        reached.send_replace(8);
        reached.send_replace(9);
        assert_eq!(within(&mut lines, Duration::from_millis(10)).await, None, "changes are gathered");
        assert_eq!(within(&mut lines, soon).await.unwrap().unwrap().change_seq, 9);

        told.send_replace(standing(Role::SteppingDown));
        let line = within(&mut lines, soon).await.unwrap().unwrap();
        assert_eq!((line.role, line.change_seq), (Role::SteppingDown, 0), "at once, and it writes no more");
        drop(told);
        assert_eq!(within(&mut lines, soon).await, Some(None), "the end of the chair is the end of the stream");
    }

    #[test]
    fn whoever_leads_or_is_about_to_follows_nobody() {
        let other = LeaderRef { instance_id: InstanceId::generate(), term: Term(3), address: "a".to_owned() };
        let me = InstanceId::generate();
        for role in Role::ALL {
            let now = Standing { leader: Some(other.clone()), ..standing(role) };
            let follows = matches!(role, Role::Candidate | Role::SteppedDown);
            assert_eq!(whom(&now, me).is_some(), follows, "{role:?}");
            assert_eq!(whom(&now, other.instance_id), None, "nobody follows itself");
        }
    }
}
