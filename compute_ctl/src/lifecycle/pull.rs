//! The pull: one answer of the control plane that has a spec, asked for until it comes.

use std::convert::Infallible;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::Attachment;
use pgfleet_clients::controller::ControllerClient;
use pgfleet_clients::retry::Backoff;
use pgfleet_runtime::exit::chain;
use tokio_util::sync::CancellationToken;

use super::handle::{Configure, Handle, Origin};

/// Asks until the control plane has a spec, or the agent has one from elsewhere. An unreachable control plane, or one that
/// does not know the compute, leaves the agent as it is.
///
/// # Errors
/// None; the type is the task's.
pub async fn pull(
    client: ControllerClient,
    compute_id: ComputeId,
    handle: Handle,
    token: CancellationToken,
) -> Result<(), Infallible> {
    let mut pauses = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut told = false;
    while handle.status().spec_hash.is_none() {
        let answer = tokio::select! {
            () = token.cancelled() => return Ok(()),
            answer = client.pull(&compute_id) => answer,
        };
        match answer {
            Ok(found) => {
                if let (Attachment::Attached, Some(spec)) = (found.status, found.spec) {
                    let configure = Configure { spec, fence: found.fence, origin: Origin::Pull };
                    match handle.configure(configure).await {
                        Ok(_) => tracing::info!("a spec was pulled from the control plane"),
                        Err(refusal) => tracing::warn!("the spec of the control plane was not taken: {refusal:?}"),
                    }
                    return Ok(());
                }
            }
            Err(error) if told => tracing::debug!("the control plane has no spec yet: {}", chain(&error)),
            Err(error) => {
                tracing::warn!("the control plane has no spec yet, asking again: {}", chain(&error));
                told = true;
            }
        }
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = tokio::time::sleep(pauses.next_pause()) => {}
        }
    }
    Ok(())
}
