//! What a candidate asks its peers: what are you, and please step down.

use std::time::{Duration, Instant};

use pgfleet_api::controller::{LeaderRef, StepDownRequest, StepDownResponse};
use pgfleet_clients::peer::{PeerAnswer, PeerClient, StepDownError};
use pgfleet_clients::transport::Failure;
use pgfleet_domain::leadership::{AskEnd, Reply};

/// How long a peer gets to answer for its status.
const STATUS_TIMEOUT: Duration = Duration::from_millis(200);
/// Between two tries of a step-down that was not answered.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks the row's address for its status.
pub(super) async fn status(peers: &PeerClient, address: &str) -> Reply {
    match peers.status(address, STATUS_TIMEOUT).await {
        PeerAnswer::Status(status) => Reply::Status(*status),
        PeerAnswer::Refused => Reply::Refused,
        PeerAnswer::Silent(_) => Reply::Silent,
    }
}

/// Asks the leader to step down, again and again until it answers or `limit` has passed.
pub(super) async fn step_down(
    peers: &PeerClient,
    leader: &LeaderRef,
    request: &StepDownRequest,
    warm: bool,
    limit: Duration,
) -> (AskEnd, Option<StepDownResponse>) {
    let begun = Instant::now();
    let mut reloaded = false;
    // The connection that was kept warm may have died unseen; that costs one repetition, and no pause.
    let mut stale = true;
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return (AskEnd::Failed, None);
        }
        let asked = match warm {
            true => peers.step_down_warm(&leader.address, Some(request), left).await,
            false => peers.step_down(&leader.address, Some(request), left).await,
        };
        match asked {
            Ok(answer) => return (AskEnd::Consented, Some(answer)),
            Err(error @ StepDownError::NotThatLeader { .. }) => {
                tracing::info!(%error, "another leader is asked");
                return (AskEnd::NotThatLeader, None);
            }
            Err(error @ StepDownError::MigrationFailedBefore { .. }) => {
                tracing::warn!(%error, "the leader stays; this member waits as a candidate");
                return (AskEnd::MigrationFailedBefore, None);
            }
            // The keys may have been changed a moment ago: once more with the files as they are now.
            Err(StepDownError::Unauthorized { .. }) if !reloaded => {
                reloaded = true;
                peers.reload_keys();
            }
            Err(error @ StepDownError::Unauthorized { .. }) => {
                tracing::error!(%error, "the leader does not accept this member's key");
                return (AskEnd::Unauthorized, None);
            }
            Err(StepDownError::Unreachable { failure: Failure::Refused, .. }) => return (AskEnd::Failed, None),
            Err(StepDownError::Other { .. }) if stale => stale = false,
            Err(error) => {
                tracing::warn!(%error, "the leader did not answer the request to step down; tried again");
                tokio::time::sleep(PAUSE.min(left)).await;
            }
        }
    }
}
