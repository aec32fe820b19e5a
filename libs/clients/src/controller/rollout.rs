//! What is asked about roll-outs.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_api::RolloutId;
use pgfleet_api::rollout::{
    RolloutCommand, RolloutComputes, RolloutComputesQuery, RolloutList, RolloutListQuery, RolloutPreview, RolloutView,
    StartRollout,
};
use reqwest::Method;

use super::call::{Ask, Resend, Target};
use super::{ControllerClient, ControllerError};

const PATH: &str = "/control/v1/rollout";
/// Every compute of the fleet is looked at, and written down.
const START_LIMIT: Duration = Duration::from_secs(60);

impl ControllerClient {
    /// Starts a roll-out. It needs a `rollout_id` to be sent again safely.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn start_rollout(
        &self,
        request: &StartRollout,
        reason: Option<&str>,
    ) -> Result<RolloutView, ControllerError> {
        let resend = if request.rollout_id.is_some() { Resend::Always } else { Resend::IfUnexecuted };
        let ask = Ask::post(PATH, request, resend)?;
        let target = Target::Work { limit: START_LIMIT };
        self.fetch(Ask { reason: reason.map(ToOwned::to_owned), target, ..ask }).await
    }

    /// Says who would be touched by a roll-out, and in which wave. Nothing is done.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn preview_rollout(&self, request: &StartRollout) -> Result<RolloutPreview, ControllerError> {
        let query = BTreeMap::from([("dry_run", "true".to_owned())]);
        let target = Target::Work { limit: START_LIMIT };
        self.fetch(Ask { query, target, ..Ask::post(PATH, request, Resend::Always)? }).await
    }

    /// A roll-out as it stands.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn rollout(&self, id: &RolloutId) -> Result<RolloutView, ControllerError> {
        self.fetch(Ask::get(&format!("{PATH}/{id}"))).await
    }

    /// One page of roll-outs, the newest first.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn rollouts(&self, query: &RolloutListQuery) -> Result<RolloutList, ControllerError> {
        let limit = query.limit.map(|limit| ("limit", limit.to_string()));
        let cursor = query.cursor.as_ref().map(|cursor| ("cursor", cursor.to_string()));
        let query = limit.into_iter().chain(cursor).collect();
        self.fetch(Ask { query, ..Ask::get(PATH) }).await
    }

    /// One page of a roll-out's computes, in their order.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn rollout_computes(
        &self,
        id: &RolloutId,
        query: &RolloutComputesQuery,
    ) -> Result<RolloutComputes, ControllerError> {
        let phase = query.phase.map(|phase| ("phase", phase.as_str().to_owned()));
        let limit = query.limit.map(|limit| ("limit", limit.to_string()));
        let cursor = query.cursor.map(|cursor| ("cursor", cursor.to_string()));
        let query = phase.into_iter().chain(limit).chain(cursor).collect();
        self.fetch(Ask { query, ..Ask::get(&format!("{PATH}/{id}/compute")) }).await
    }

    /// Pauses, resumes, aborts or rolls back. `reason` goes into the journal.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn command_rollout(
        &self,
        id: &RolloutId,
        command: RolloutCommand,
        reason: Option<&str>,
    ) -> Result<RolloutView, ControllerError> {
        // Resumed twice, it would go on after a second halt that nobody has seen.
        let resend = match command {
            RolloutCommand::Resume => Resend::IfUnexecuted,
            RolloutCommand::Pause | RolloutCommand::Abort | RolloutCommand::Rollback => Resend::Always,
        };
        let ask = Ask::get(&format!("{PATH}/{id}/{}", command.as_str()));
        self.fetch(Ask { method: Method::POST, resend, reason: reason.map(ToOwned::to_owned), ..ask }).await
    }
}
