//! What the writer does for roll-outs: the rows of a roll-out and of its computes, in the same transaction as the specs.
//!
//! Called by: `plan` and `batch`. Invariant: the row of a compute says that it was touched if and only if its new spec is
//! in the database, whoever dies when. The previous spec is taken from the table itself, before it is written over.

use pgfleet_api::rollout::{RolloutPhase, TargetPhase};
use pgfleet_api::{ComputeId, Generation, RolloutId};
use serde_json::{Value, json};
use tokio_postgres::Client;

use chrono::{DateTime, Utc};

use super::NewSpec;
use crate::error::DbError;

/// A change of a roll-out.
#[derive(Debug, Clone, PartialEq)]
pub enum RolloutChange {
    /// A new roll-out with all its computes.
    Start(Box<NewRollout>),
    /// It has another phase.
    Enter {
        /// Which.
        rollout_id: RolloutId,
        /// Where it stands now.
        phase: RolloutPhase,
        /// What a pause or halt interrupts.
        resumes: Option<RolloutPhase>,
        /// Why it halted, one word.
        halted: Option<&'static str>,
        /// The wave.
        wave: u32,
    },
    /// A compute of it stands elsewhere; its spec is not touched.
    Note {
        /// Which.
        rollout_id: RolloutId,
        /// Its place.
        ordinal: u32,
        /// Where it stands.
        phase: TargetPhase,
        /// Why; none leaves what was said before.
        error: Option<String>,
    },
    /// A compute gets its new spec.
    Touch(Hand),
    /// A compute gets its previous spec.
    Restore(Hand),
    /// Nothing: answered when everything before it is known to be committed or not.
    Barrier,
}

/// A spec for one compute of a roll-out.
#[derive(Debug, Clone, PartialEq)]
pub struct Hand {
    /// Which roll-out.
    pub rollout_id: RolloutId,
    /// Its place.
    pub ordinal: u32,
    /// Which compute.
    pub compute_id: ComputeId,
    /// The spec.
    pub spec: NewSpec,
    /// The generation that it is made for; another one refuses it.
    pub if_match: Generation,
}

/// A roll-out to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRollout {
    /// Its name.
    pub rollout_id: RolloutId,
    /// As it was asked for.
    pub request: Value,
    /// The numbers that the strategy came to.
    pub plan: Value,
    /// The first wave.
    pub wave: u32,
    /// Who started it.
    pub started_by: String,
    /// Why.
    pub reason: Option<String>,
    /// Its computes in their order.
    pub targets: Vec<NewTarget>,
}

/// A compute of a new roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTarget {
    /// Which.
    pub compute_id: ComputeId,
    /// Where it stands: waiting, or left out.
    pub phase: TargetPhase,
    /// Why it is left out.
    pub error: Option<String>,
}

impl RolloutChange {
    pub(super) const fn hand(&self) -> Option<&Hand> {
        match self {
            Self::Touch(hand) | Self::Restore(hand) => Some(hand),
            Self::Start(_) | Self::Enter { .. } | Self::Note { .. } | Self::Barrier => None,
        }
    }

    /// What the journal keeps of it.
    pub(super) fn action(&self, written: Option<Generation>) -> Option<Value> {
        match self {
            Self::Start(new) => Some(json!({
                "op": "rollout_start",
                "rollout_id": new.rollout_id,
                "selected": new.targets.len(),
                "plan": new.plan,
            })),
            Self::Enter { rollout_id, phase, resumes, halted, wave } => Some(json!({
                "op": "rollout_phase",
                "rollout_id": rollout_id,
                "phase": phase,
                "resumes": resumes,
                "halted": halted,
                "wave": wave,
            })),
            Self::Touch(hand) | Self::Restore(hand) => Some(json!({
                "op": if matches!(self, Self::Touch(_)) { "rollout_touch" } else { "rollout_restore" },
                "rollout_id": hand.rollout_id,
                "previous_generation": hand.if_match,
                "generation": written,
                "spec_hash": hand.spec.hash,
            })),
            Self::Note { .. } | Self::Barrier => None,
        }
    }
}

const INSERT_ROLLOUT: &str = "
    INSERT INTO rollouts (rollout_id, request, plan, phase, wave, started_by, reason, created_at, updated_at)
    VALUES ($1::text, $2::jsonb, $3::jsonb, 'pending', $4::integer, $5::text, $6::text, $7::timestamptz, $7)";

const INSERT_COMPUTES: &str = "
    INSERT INTO rollout_computes (rollout_id, ordinal, compute_id, phase, error, updated_at)
    SELECT $1::text, ordinal - 1, compute_id, phase, error, $5::timestamptz
    FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS t (compute_id, phase, error, ordinal)";

const ENTER: &str = "
    UPDATE rollouts
    SET phase = $2::text, resumes = $3::text, halted = $4::text, wave = $5::integer, updated_at = $6::timestamptz,
        ended_at = CASE WHEN $7::boolean THEN $6::timestamptz END
    WHERE rollout_id = $1::text";

const NOTE: &str = "
    UPDATE rollout_computes r
    SET phase = t.phase, error = coalesce(t.error, r.error), updated_at = $5::timestamptz
    FROM unnest($1::text[], $2::integer[], $3::text[], $4::text[]) AS t (rollout_id, ordinal, phase, error)
    WHERE r.rollout_id = t.rollout_id AND r.ordinal = t.ordinal";

/// Runs before the specs are written: what the table of computes has is still the previous one. What was kept once is
/// never replaced.
const TOUCH: &str = "
    UPDATE rollout_computes r
    SET phase = 'in_flight', generation = t.generation, spec_hash = t.spec_hash, error = NULL,
        previous_generation = coalesce(r.previous_generation, c.generation),
        previous_spec = CASE WHEN r.previous_generation IS NULL THEN c.spec ELSE r.previous_spec END,
        previous_hash = coalesce(r.previous_hash, c.spec_hash), updated_at = $5::timestamptz
    FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[]) AS t (rollout_id, ordinal, generation, spec_hash),
         computes c
    WHERE r.rollout_id = t.rollout_id AND r.ordinal = t.ordinal AND c.compute_id = r.compute_id";

const RESTORE: &str = "
    UPDATE rollout_computes r
    SET phase = 'returning', restored_generation = t.generation, updated_at = $4::timestamptz
    FROM unnest($1::text[], $2::integer[], $3::bigint[]) AS t (rollout_id, ordinal, generation)
    WHERE r.rollout_id = t.rollout_id AND r.ordinal = t.ordinal";

/// The rows of one batch that are about roll-outs.
#[derive(Debug, Default)]
pub(super) struct RolloutRows {
    changes: Vec<RolloutChange>,
    notes: Notes,
    touched: Hands,
    restored: Hands,
}

#[derive(Debug, Default)]
struct Notes {
    rollouts: Vec<String>,
    ordinals: Vec<i32>,
    phases: Vec<&'static str>,
    errors: Vec<Option<String>>,
}

#[derive(Debug, Default)]
struct Hands {
    rollouts: Vec<String>,
    ordinals: Vec<i32>,
    generations: Vec<i64>,
    hashes: Vec<String>,
}

impl Hands {
    fn push(&mut self, hand: &Hand, generation: Generation) {
        self.rollouts.push(hand.rollout_id.to_string());
        self.ordinals.push(int(hand.ordinal));
        self.generations.push(generation.get());
        self.hashes.push(hand.spec.hash.to_string());
    }
}

/// An ordinal is bounded by the size of a fleet.
fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl RolloutRows {
    /// Takes a change in; `written` is the generation that a spec got.
    pub(super) fn push(&mut self, change: &RolloutChange, written: Generation) {
        match change {
            RolloutChange::Start(_) | RolloutChange::Enter { .. } => self.changes.push(change.clone()),
            RolloutChange::Note { rollout_id, ordinal, phase, error } => {
                self.notes.rollouts.push(rollout_id.to_string());
                self.notes.ordinals.push(int(*ordinal));
                self.notes.phases.push(phase.as_str());
                self.notes.errors.push(error.clone());
            }
            RolloutChange::Touch(hand) => self.touched.push(hand, written),
            RolloutChange::Restore(hand) => self.restored.push(hand, written),
            RolloutChange::Barrier => {}
        }
    }

    /// Writes them. Before the batch's specs: the previous ones are read here. Roll-outs are rare, so their statements are
    /// not kept prepared.
    pub(super) async fn write(&self, client: &Client, now: DateTime<Utc>) -> Result<(), DbError> {
        const DOING: &str = "wrote a roll-out";
        let done = |result: Result<u64, tokio_postgres::Error>| result.map(drop).map_err(DbError::query(DOING));
        for change in &self.changes {
            match change {
                RolloutChange::Start(new) => done(start(client, new, now).await)?,
                RolloutChange::Enter { rollout_id, phase, resumes, halted, wave } => {
                    let resumes = resumes.map(RolloutPhase::as_str);
                    let (id, over) = (rollout_id.as_str(), phase.is_over());
                    let wave = int(*wave);
                    done(client.execute(ENTER, &[&id, &phase.as_str(), &resumes, &halted, &wave, &now, &over]).await)?;
                }
                RolloutChange::Note { .. } | RolloutChange::Touch(_) => {}
                RolloutChange::Restore(_) | RolloutChange::Barrier => {}
            }
        }
        if !self.notes.rollouts.is_empty() {
            let Notes { rollouts, ordinals, phases, errors } = &self.notes;
            done(client.execute(NOTE, &[rollouts, ordinals, phases, errors, &now]).await)?;
        }
        if !self.touched.rollouts.is_empty() {
            let Hands { rollouts, ordinals, generations, hashes } = &self.touched;
            done(client.execute(TOUCH, &[rollouts, ordinals, generations, hashes, &now]).await)?;
        }
        if !self.restored.rollouts.is_empty() {
            let Hands { rollouts, ordinals, generations, hashes: _ } = &self.restored;
            done(client.execute(RESTORE, &[rollouts, ordinals, generations, &now]).await)?;
        }
        Ok(())
    }
}

async fn start(client: &Client, new: &NewRollout, now: DateTime<Utc>) -> Result<u64, tokio_postgres::Error> {
    let id = new.rollout_id.as_str();
    let wave = int(new.wave);
    client.execute(INSERT_ROLLOUT, &[&id, &new.request, &new.plan, &wave, &new.started_by, &new.reason, &now]).await?;
    let ids: Vec<&str> = new.targets.iter().map(|target| target.compute_id.as_str()).collect();
    let phases: Vec<&str> = new.targets.iter().map(|target| target.phase.as_str()).collect();
    let errors: Vec<Option<&str>> = new.targets.iter().map(|target| target.error.as_deref()).collect();
    client.execute(INSERT_COMPUTES, &[&id, &ids, &phases, &errors, &now]).await
}
