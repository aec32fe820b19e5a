//! Use cases about the controllers themselves.

use std::sync::Arc;
use std::time::Instant;

use pgfleet_api::controller::{ControllerStatus, LeaderView, MemberList, Role, StepDownRequest, StepDownResponse};
use pgfleet_persistence::DbError;

use super::{Desk, Operation, ServiceError};

/// How long everybody but the successor leaves a term alone after its step-down, in milliseconds.
pub const HOLD_MS: u64 = 2000;

impl Desk {
    /// What this member is. Never touches the database.
    #[must_use]
    pub fn status(&self) -> ControllerStatus {
        let standing = self.leadership.standing();
        ControllerStatus {
            role: standing.role,
            instance_id: self.leadership.instance_id(),
            address: self.leadership.address().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            term: standing.term,
            leader: standing.leader,
            successor: standing.successor,
            hold_ms: (standing.role == Role::SteppedDown).then_some(HOLD_MS),
        }
    }

    /// The leader row, read from the database in every role.
    ///
    /// # Errors
    /// The database does not answer, or nobody has ever led.
    pub async fn leader(&self) -> Result<LeaderView, ServiceError> {
        let begun = Instant::now();
        let row = self.database.read_leader().await;
        self.metrics.took(Operation::Read, begun.elapsed());
        let row = row.map_err(|error| self.read_failed(error))?;
        row.ok_or_else(|| {
            let standing = self.leadership.standing();
            ServiceError::NotLeading { role: standing.role, leader: None }
        })
    }

    /// The members the leader knows of.
    ///
    /// # Errors
    /// [`ServiceError::NotLeading`].
    pub fn controllers(&self) -> Result<MemberList, ServiceError> {
        self.leading()?;
        Ok(MemberList { controllers: self.leadership.members() })
    }

    /// Steps down for the candidate that asks, or for anybody.
    ///
    /// # Errors
    /// [`ServiceError::NotThatLeader`].
    pub async fn step_down(&self, request: Option<StepDownRequest>) -> Result<Arc<StepDownResponse>, ServiceError> {
        let (target, successor) = match request {
            Some(request) => (Some(request.leader), Some(request.candidate)),
            None => (None, None),
        };
        Ok(self.leadership.step_down(target, successor).await?)
    }

    pub(super) fn read_failed(&self, error: DbError) -> ServiceError {
        self.metrics.failed(Operation::Read, &error);
        ServiceError::Database(error)
    }
}
