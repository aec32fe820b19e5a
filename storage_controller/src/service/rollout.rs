//! Use cases about roll-outs. What is shown is what the database has.

use std::collections::BTreeMap;
use std::time::Instant;

use pgfleet_api::RolloutId;
use pgfleet_api::rollout::{
    RolloutCompute, RolloutComputes, RolloutComputesQuery, RolloutList, RolloutListQuery, RolloutPlan, RolloutStarted,
    RolloutView, StartRollout, TargetPhase,
};
use pgfleet_domain::rollout::{Command, Halt, Plan};
use pgfleet_persistence::{Asker, DbError, RolloutRecord, TargetRecord};

use super::compute::{MAX_PAGE, PAGE, rule};
use super::{Desk, Operation, ServiceError};

/// Roll-outs on a page: each costs a count of its computes.
const LIST: u32 = 20;
const MAX_LIST: u32 = 100;
/// Computes that a view names.
const TROUBLES: i64 = 100;

impl Desk {
    /// Starts a roll-out. The same request under the same name again answers with the one that there is.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn start_rollout(&self, caller: Asker, request: StartRollout) -> Result<RolloutStarted, ServiceError> {
        let leading = self.leading()?;
        let started = leading.rollouts.start(caller, request).await;
        let id = started.map_err(|error| ServiceError::of_rollout(error, || self.not_leading()))?;
        self.rollout(&id).await.map(|view| RolloutStarted::Started(Box::new(view)))
    }

    /// Says who would be touched. Nothing is written.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn preview_rollout(&self, request: StartRollout) -> Result<RolloutStarted, ServiceError> {
        let leading = self.leading()?;
        let preview = leading.rollouts.preview(&request).await;
        preview.map(RolloutStarted::Preview).map_err(|error| ServiceError::of_rollout(error, || self.not_leading()))
    }

    /// Pauses, resumes, aborts or rolls back. What is so already does nothing.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn command_rollout(
        &self,
        caller: Asker,
        id: RolloutId,
        command: Command,
    ) -> Result<RolloutView, ServiceError> {
        let leading = self.leading()?;
        let done = leading.rollouts.command(caller, id.clone(), command).await;
        done.map_err(|error| ServiceError::of_rollout(error, || self.not_leading()))?;
        self.rollout(&id).await
    }

    /// One roll-out. Read by the leader, so that what it acknowledged is in it.
    ///
    /// # Errors
    /// There is none of this name, the database does not answer, or this member does not lead.
    pub async fn rollout(&self, id: &RolloutId) -> Result<RolloutView, ServiceError> {
        let _leading = self.leading()?;
        let begun = Instant::now();
        let read = async {
            let Some(record) = self.database.rollout(id).await? else { return Ok(None) };
            let counts = self.database.rollout_counts(id).await?;
            let troubles = self.database.rollout_troubles(id, TROUBLES).await?;
            view(record, counts, troubles).map(Some)
        };
        let read = read.await;
        self.metrics.took(Operation::Read, begun.elapsed());
        let view = read.map_err(|error| self.read_failed(error))?;
        view.ok_or_else(|| ServiceError::UnknownRollout(id.clone()))
    }

    /// One page of roll-outs, the newest first.
    ///
    /// # Errors
    /// A limit out of range, the database does not answer, or this member does not lead.
    pub async fn rollouts(&self, query: RolloutListQuery) -> Result<RolloutList, ServiceError> {
        let _leading = self.leading()?;
        let limit = query.limit.unwrap_or(LIST);
        if !(1..=MAX_LIST).contains(&limit) {
            return Err(rule("limit", "limit is 1 to 100"));
        }
        let begun = Instant::now();
        let read = async {
            let mut records = self.database.rollouts(query.cursor.as_ref(), i64::from(limit) + 1).await?;
            let more = records.len() > limit as usize;
            records.truncate(limit as usize);
            let mut rollouts = Vec::with_capacity(records.len());
            for record in records {
                let counts = self.database.rollout_counts(&record.rollout_id).await?;
                rollouts.push(view(record, counts, Vec::new())?);
            }
            let next_cursor = rollouts.last().filter(|_| more).map(|last: &RolloutView| last.rollout_id.clone());
            Ok(RolloutList { rollouts, next_cursor })
        };
        let read: Result<_, DbError> = read.await;
        self.metrics.took(Operation::Read, begun.elapsed());
        read.map_err(|error| self.read_failed(error))
    }

    /// One page of a roll-out's computes, in their order.
    ///
    /// # Errors
    /// There is no such roll-out, a limit out of range, the database does not answer, or this member does not lead.
    pub async fn rollout_computes(
        &self,
        id: &RolloutId,
        query: RolloutComputesQuery,
    ) -> Result<RolloutComputes, ServiceError> {
        let _leading = self.leading()?;
        let limit = query.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(rule("limit", "limit is 1 to 1000"));
        }
        let begun = Instant::now();
        let read = async {
            let Some(record) = self.database.rollout(id).await? else { return Ok(None) };
            let rows = self.database.rollout_computes(id, &query, i64::from(limit) + 1).await?;
            Ok(Some((plan_of(&record)?, rows)))
        };
        let read: Result<_, DbError> = read.await;
        self.metrics.took(Operation::Read, begun.elapsed());
        let found = read.map_err(|error| self.read_failed(error))?;
        let (plan, mut rows) = found.ok_or_else(|| ServiceError::UnknownRollout(id.clone()))?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let plan = Plan::from(&plan);
        let computes: Vec<RolloutCompute> = rows.into_iter().map(|row| compute(&plan, row)).collect();
        let next_cursor = computes.last().filter(|_| more).map(|last| last.ordinal);
        Ok(RolloutComputes { computes, next_cursor })
    }
}

fn plan_of(record: &RolloutRecord) -> Result<RolloutPlan, DbError> {
    read(&record.plan)
}

fn read<T: serde::de::DeserializeOwned>(stored: &serde_json::Value) -> Result<T, DbError> {
    let what = "roll-out of this release";
    T::deserialize(stored).map_err(|error| DbError::Content { what, reason: error.to_string() })
}

fn view(
    record: RolloutRecord,
    counts: Vec<(TargetPhase, u32)>,
    troubles: Vec<TargetRecord>,
) -> Result<RolloutView, DbError> {
    let request: StartRollout = read(&record.request)?;
    let shown = plan_of(&record)?;
    let plan = Plan::from(&shown);
    let halts = [Halt::ErrorBudget, Halt::NoRoom];
    let halted = record.halted.as_deref().map(|word| {
        halts
            .into_iter()
            .find(|halt| halt.as_str() == word)
            .map_or_else(|| word.to_owned(), |halt| halt.line().to_owned())
    });
    let counts: BTreeMap<TargetPhase, u32> = counts.into_iter().collect();
    Ok(RolloutView {
        rollout_id: record.rollout_id,
        phase: record.phase,
        resumes: record.resumes,
        halted,
        wave: record.wave,
        plan: shown,
        selected: counts.values().sum(),
        counts,
        selector: request.selector,
        patch: request.patch,
        strategy: request.strategy,
        started_by: record.started_by,
        reason: record.reason,
        created_at: record.created_at,
        updated_at: record.updated_at,
        troubles: troubles.into_iter().map(|row| compute(&plan, row)).collect(),
    })
}

fn compute(plan: &Plan, row: TargetRecord) -> RolloutCompute {
    RolloutCompute {
        wave: plan.wave_of(row.ordinal),
        compute_id: row.compute_id,
        ordinal: row.ordinal,
        phase: row.phase,
        previous_generation: row.previous_generation,
        generation: row.generation,
        restored_generation: row.restored_generation,
        error: row.error,
    }
}
