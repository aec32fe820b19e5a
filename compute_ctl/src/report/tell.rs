//! Tells the control plane of each change of the status, so that it need not wait for its next look.
//!
//! A report is a hint: it is sent once, one that is lost costs nothing but that wait, and nothing here depends on the answer.

use std::convert::Infallible;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::{AgentStatus, TransitionReport};
use pgfleet_clients::controller::ControllerClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Changes within this time are told of together.
const GATHER: Duration = Duration::from_millis(20);

/// Tells until `token` is cancelled.
///
/// # Errors
/// Never; the type is the task's.
pub async fn tell(
    client: ControllerClient,
    compute_id: ComputeId,
    mut status: watch::Receiver<AgentStatus>,
    token: CancellationToken,
) -> Result<(), Infallible> {
    let mut failing = false;
    loop {
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            changed = status.changed() => if changed.is_err() { return Ok(()) },
        }
        tokio::time::sleep(GATHER).await;
        let report = {
            let status = status.borrow_and_update();
            TransitionReport { boot_id: status.boot_id, status_seq: status.status_seq, state: Some(status.status) }
        };
        let told = tokio::select! {
            () = token.cancelled() => return Ok(()),
            told = client.report(&compute_id, &report) => told,
        };
        match told {
            Ok(_) => failing = false,
            // Said once: the control plane finds out by itself.
            Err(error) if std::mem::replace(&mut failing, true) => tracing::debug!(%error, "a report was not taken"),
            Err(error) => tracing::info!(%error, "the control plane takes no reports"),
        }
    }
}
