//! A roll-out under way: what the task keeps of it in memory. All of it can be read from the database again.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_api::rollout::{RolloutComputesQuery, RolloutPlan, SpecPatch, StartRollout, TargetPhase};
use pgfleet_api::{ComputeId, Generation, RolloutId, SpecHash};
use pgfleet_domain::rollout::{Action, Event, Halt, Plan, Stage, State, Stored, Target, decide};
use pgfleet_persistence::{Asker, Database, RolloutRecord, TargetRecord};

use super::RolloutError;

/// Computes of a roll-out that are read in one go.
const PAGE: i64 = 5_000;

/// One roll-out.
pub(super) struct Course {
    pub(super) rollout_id: RolloutId,
    pub(super) patch: SpecPatch,
    /// Whose wish every touch is.
    pub(super) asker: Asker,
    pub(super) state: State,
    ids: Vec<ComputeId>,
    /// The content that we gave, by ordinal: by it we know our own work again.
    given: BTreeMap<u32, SpecHash>,
    /// Why a compute stands where it stands, until it is written down.
    why: BTreeMap<u32, String>,
}

impl Course {
    /// Reads it. `None`: there is none of this name.
    pub(super) async fn read(
        database: &Database,
        rollout_id: &RolloutId,
        now: Duration,
    ) -> Result<Option<Self>, RolloutError> {
        let Some(record) = database.rollout(rollout_id).await? else { return Ok(None) };
        let mut rows: Vec<TargetRecord> = Vec::new();
        loop {
            let cursor = rows.last().map(|row| row.ordinal);
            let query = RolloutComputesQuery { cursor, ..RolloutComputesQuery::default() };
            let page = database.rollout_computes(rollout_id, &query, PAGE).await?;
            let last = (page.len() as i64) < PAGE;
            rows.extend(page);
            if last {
                break;
            }
        }
        Self::of(record, rows, now).map(Some)
    }

    fn of(record: RolloutRecord, rows: Vec<TargetRecord>, now: Duration) -> Result<Self, RolloutError> {
        let unreadable = || RolloutError::Unreadable(record.rollout_id.clone());
        let request: StartRollout = serde_json::from_value(record.request).map_err(|_| unreadable())?;
        let plan: RolloutPlan = serde_json::from_value(record.plan).map_err(|_| unreadable())?;
        let plan = Plan::from(&plan);
        let until = now + plan.gate_timeout;
        let targets = rows.iter().map(|row| target_of(row, until)).collect();
        let stored = Stored {
            phase: record.phase,
            resume: record.resumes.and_then(Stage::of),
            why: record.halted.as_deref().and_then(halt_of),
            wave: record.wave,
        };
        let given = rows.iter().filter_map(|row| Some((row.ordinal, row.spec_hash.clone()?))).collect();
        Ok(Self {
            rollout_id: record.rollout_id,
            patch: request.patch,
            asker: Asker { actor: record.started_by, reason: record.reason },
            state: State::resumed(plan, stored, targets, now),
            ids: rows.into_iter().map(|row| row.compute_id).collect(),
            given,
            why: BTreeMap::new(),
        })
    }

    /// The compute at this place.
    pub(super) fn compute(&self, ordinal: u32) -> Option<&ComputeId> {
        self.ids.get(ordinal as usize)
    }

    /// A compute that it changes, or may still change, and that is in the set.
    pub(super) fn shares<'a>(&'a self, other: &std::collections::BTreeSet<&ComputeId>) -> Option<&'a ComputeId> {
        self.ids.iter().take(self.state.plan().computes as usize).find(|id| other.contains(id))
    }

    /// The computes that it changes.
    pub(super) fn changes(&self) -> impl Iterator<Item = &ComputeId> {
        self.ids.iter().take(self.state.plan().computes as usize)
    }

    /// Decides, and keeps the new state.
    pub(super) fn take(&mut self, event: Event, now: Duration) -> Vec<Action> {
        // A copy would be as large as the roll-out, at every event.
        let empty = State::resumed(*self.state.plan(), self.state.stored(), Vec::new(), now);
        let (state, actions) = decide(std::mem::replace(&mut self.state, empty), event, now);
        self.state = state;
        actions
    }

    /// The content that was given to a compute.
    pub(super) fn given(&self, ordinal: u32) -> Option<&SpecHash> {
        self.given.get(&ordinal)
    }

    pub(super) fn gave(&mut self, ordinal: u32, hash: SpecHash) {
        self.given.insert(ordinal, hash);
    }

    /// Notes why a compute is about to stand where it will.
    pub(super) fn because(&mut self, ordinal: u32, why: impl Into<String>) {
        self.why.insert(ordinal, why.into());
    }

    pub(super) fn why(&mut self, ordinal: u32) -> Option<String> {
        self.why.remove(&ordinal)
    }
}

fn halt_of(word: &str) -> Option<Halt> {
    [Halt::ErrorBudget, Halt::NoRoom].into_iter().find(|halt| halt.as_str() == word)
}

fn target_of(row: &TargetRecord, until: Duration) -> Target {
    let generation = row.generation.unwrap_or(Generation(0));
    let restored = row.restored_generation.unwrap_or(generation);
    match row.phase {
        TargetPhase::Waiting => Target::Waiting,
        TargetPhase::InFlight => Target::InFlight { generation, until },
        TargetPhase::Healthy => Target::Healthy { generation },
        TargetPhase::Failed => Target::Failed { generation },
        TargetPhase::GivenUp => Target::GivenUp { generation },
        TargetPhase::Refused => Target::Refused,
        // A word of a later build: not ours to touch.
        TargetPhase::Skipped | TargetPhase::Unknown => Target::Skipped,
        TargetPhase::Unchanged => Target::Unchanged,
        TargetPhase::Returning => Target::Returning { generation: restored, until },
        TargetPhase::Restored => Target::Restored,
        TargetPhase::Unrestored => Target::Unrestored { generation: restored },
        TargetPhase::Abandoned => Target::Abandoned,
        TargetPhase::Overtaken => Target::Overtaken,
    }
}
