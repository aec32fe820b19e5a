//! Use cases about the controllers themselves.

use std::sync::Arc;
use std::time::Instant;

use pgfleet_api::controller::{
    ControllerStatus, LeaderView, MemberList, Role, StepDownRequest, TakeOverRequest, TakeOverResponse, TermList,
    TermView,
};
use pgfleet_persistence::DbError;

use super::{Desk, Operation, ServiceError};
use crate::leadership::{Lines, Peer, SteppedDown};

/// The longest page of the history.
const MAX_TERMS: i64 = 1000;

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
            hold_ms: (standing.role == Role::SteppedDown)
                .then(|| u64::try_from(self.leadership.hold().as_millis()).unwrap_or(u64::MAX)),
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

    /// The terms there were, the newest first, read from the database in every role.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn leader_history(&self, limit: Option<u32>) -> Result<TermList, ServiceError> {
        let limit = limit.map_or(20, i64::from).clamp(1, MAX_TERMS);
        let begun = Instant::now();
        let terms = self.database.leader_history(limit).await;
        self.metrics.took(Operation::Read, begun.elapsed());
        let terms = terms.map_err(|error| self.read_failed(error))?.into_iter().map(|term| TermView {
            term: term.term,
            instance_id: term.instance_id,
            address: term.address,
            began: term.began,
            started_at: term.started_at,
            ended: term.ended,
            ended_at: term.ended_at,
            note: term.note,
            target_schema: term.target_schema,
        });
        Ok(TermList { terms: terms.collect() })
    }

    /// Steps down for the candidate that asks, or for anybody.
    ///
    /// # Errors
    /// [`ServiceError::StepDown`].
    pub async fn step_down(&self, request: Option<StepDownRequest>) -> Result<Arc<SteppedDown>, ServiceError> {
        Ok(self.leadership.step_down(request).await?)
    }

    /// Has this member take over, and waits until it leads and serves.
    ///
    /// # Errors
    /// [`ServiceError::TakeOver`].
    pub async fn take_over(&self, request: TakeOverRequest) -> Result<TakeOverResponse, ServiceError> {
        Ok(self.leadership.take_over(request.force).await?)
    }

    /// A stream of where this member stands; a peer that reads it is a registered member.
    #[must_use]
    pub fn follow(&self, peer: Option<Peer>) -> Lines {
        self.leadership.follow(peer)
    }

    pub(super) fn read_failed(&self, error: DbError) -> ServiceError {
        self.metrics.failed(Operation::Read, &error);
        ServiceError::Database(error)
    }
}
