//! Use cases: what is done once with a compute. An action is an intent like a spec: it takes a generation of its own in the
//! database, and the engine carries it out.

use pgfleet_api::ComputeId;
use pgfleet_api::agent::TerminateMode;
use pgfleet_api::policy::{ActionAccepted, ActionKind, Mode};
use pgfleet_persistence::{Asker, Change};

use super::{Desk, ServiceError};

impl Desk {
    /// Has a compute ended once. If its agent is started again, it runs again; its policy `stop` keeps it stopped.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn terminate(
        &self,
        caller: Asker,
        id: ComputeId,
        mode: TerminateMode,
    ) -> Result<ActionAccepted, ServiceError> {
        self.act(caller, id, Some((ActionKind::Terminate, mode))).await
    }

    /// Has a compute ended, and then forgotten.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn end_and_delete(&self, caller: Asker, id: ComputeId) -> Result<ActionAccepted, ServiceError> {
        self.act(caller, id, Some((ActionKind::Delete, TerminateMode::Fast))).await
    }

    /// Has the spec applied again, also one that was given up.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn refresh(&self, caller: Asker, id: ComputeId) -> Result<ActionAccepted, ServiceError> {
        self.act(caller, id, None).await
    }

    async fn act(
        &self,
        caller: Asker,
        id: ComputeId,
        action: Option<(ActionKind, TerminateMode)>,
    ) -> Result<ActionAccepted, ServiceError> {
        let leading = self.leading()?;
        let committed = self.write(&leading, caller, &id, Change::Act { compute_id: id.clone(), action }).await?;
        if committed.changed {
            leading.waker.wake_now(id);
            return Ok(ActionAccepted { generation: committed.generation });
        }
        let mode = self.entry(&leading, &id)?.record.policy.mode;
        Err(if mode == Mode::Active {
            ServiceError::NoSpec(id)
        } else {
            ServiceError::HeldByPolicy { compute_id: id, mode }
        })
    }
}
