//! The pull: one answer of the control plane that has a spec, asked for until it comes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_clients::controller::ControllerClient;
use pgfleet_clients::retry::Backoff;
use tokio_util::sync::CancellationToken;

use super::body::{Fetched, ask};
use super::handle::Handle;
use super::metrics::LifecycleMetrics;

/// Asks until the control plane has a spec, or the agent has one from elsewhere. An unreachable control plane, or one that
/// does not know the compute, leaves the agent as it is.
///
/// # Errors
/// None; the type is the task's.
pub async fn pull(
    client: ControllerClient,
    compute_id: ComputeId,
    (handle, numbers): (Handle, Arc<LifecycleMetrics>),
    token: CancellationToken,
) -> Result<(), Infallible> {
    let mut pauses = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut told = false;
    while handle.status().spec_hash.is_none() {
        let answer = tokio::select! {
            () = token.cancelled() => return Ok(()),
            answer = ask(&client, &compute_id, &numbers) => answer,
        };
        match answer {
            Fetched::Spec(configure) => {
                match handle.configure(*configure).await {
                    Ok(_) => tracing::info!("a spec was pulled from the control plane"),
                    Err(refusal) => tracing::warn!("the spec of the control plane was not taken: {refusal:?}"),
                }
                return Ok(());
            }
            Fetched::Detached => {}
            Fetched::Nothing(why) if told => tracing::debug!("the control plane has no spec yet: {why}"),
            Fetched::Nothing(why) => {
                tracing::warn!("the control plane has no spec yet, asking again: {why}");
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
