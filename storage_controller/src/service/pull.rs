//! The agent's pull: the intent of its compute, with the proof that a push would carry.

use pgfleet_api::ComputeId;
use pgfleet_api::agent::{Attachment, PullResponse};
use pgfleet_api::policy::Mode;

use super::compute::CurrentSpec;
use super::{Desk, ServiceError};

impl Desk {
    /// The spec that a compute should have, with its fence; `empty` where nothing was asked for, or it is to be stopped.
    ///
    /// A compute that was deleted is as unknown as one that never was: deleting forgets it and leaves it running.
    ///
    /// # Errors
    /// Unknown compute, the database does not answer, or this member does not lead.
    pub async fn pull(&self, id: &ComputeId) -> Result<PullResponse, ServiceError> {
        let leading = self.leading()?;
        let stopped = self.entry(&leading, id)?.record.policy.mode == Mode::Stop;
        let spec = self.spec_in_memory(&leading, id).await?;
        // One that is to be stopped gets nothing to start with.
        let Some(CurrentSpec { generation, spec_hash, spec }) = spec.filter(|_| !stopped) else {
            return Ok(PullResponse { status: Attachment::Empty, spec: None, fence: None, compute_ctl_config: None });
        };
        // Looked at and let go within this statement: nothing of a request outlives the leadership.
        let fence = leading.proof.upgrade().map(|term| term.fence(id, generation, &spec_hash));
        let fence = fence.ok_or_else(|| self.not_leading())?;
        Ok(PullResponse {
            status: Attachment::Attached,
            spec: Some(spec),
            fence: Some(fence),
            compute_ctl_config: None,
        })
    }
}
