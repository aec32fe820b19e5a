//! What a change does to the row it finds: pure, no database.
//!
//! Called by: `batch`. Invariants: a generation never falls and grows by one with each new content; what is already so
//! writes nothing.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use pgfleet_api::agent::TerminateMode;
use pgfleet_api::compute::Observed;
use pgfleet_api::policy::{ActionKind, Mode, PendingAction, Policy, PutPolicy};
use pgfleet_api::{ComputeId, Generation, SpecHash};
use serde_json::{Value, json};

use super::{Action, Change, Committed, NewSpec, RolloutChange, WriteError};
use crate::records::{ComputeRecord, Labels, wants_timeout};

/// The row of a compute as the transaction found it.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub(super) agent_url: String,
    pub(super) labels: Labels,
    pub(super) generation: Generation,
    /// Read only for a change that keeps the spec: a `Register` without one, a `SetPolicy`, `Act`, `Acted`, `Lift`.
    pub(super) suspend_timeout_s: Option<i64>,
    pub(super) spec_hash: Option<SpecHash>,
    pub(super) policy: Policy,
    pub(super) change_seq: i64,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) deleted: bool,
}

/// What has to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Compute(ComputeRecord),
    Tombstone {
        compute_id: ComputeId,
        agent_url: String,
        generation: Generation,
        created_at: DateTime<Utc>,
    },
    Observed {
        compute_id: ComputeId,
        observed: Box<Observed>,
        transition: Option<Value>,
    },
    Journal(Action),
    /// Rows of a roll-out, without a spec.
    Rollout,
}

/// A change that goes through: its answer and, if it is news, what to write under `answer.change_seq`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) answer: Committed,
    pub(super) write: Option<Write>,
}

/// The numbers a transaction gives to its changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    /// The last number drawn before this change.
    pub(super) last: i64,
    /// The transaction's time.
    pub(super) now: DateTime<Utc>,
}

pub(super) fn plan(
    change: &Change,
    before: Option<&Before>,
    seen: Option<&Observed>,
    stamp: Stamp,
) -> Result<Planned, WriteError> {
    let live = before.filter(|row| !row.deleted);
    match change {
        Change::Register { compute_id, agent_url, labels, spec } => {
            // Most say again what is known.
            let known = live.map(|row| &row.labels).filter(|known| known.as_ref() == labels);
            let labels = known.map_or_else(|| Arc::new(labels.clone()), Arc::clone);
            Ok(register(compute_id, agent_url, &labels, spec.as_ref(), before, stamp))
        }
        Change::PutSpec { compute_id, spec, if_match } => {
            let row = live.ok_or(WriteError::UnknownCompute)?;
            is_at(row, *if_match)?;
            Ok(register(compute_id, &row.agent_url, &row.labels, Some(spec), before, stamp))
        }
        Change::Rollout(change) => match change.hand() {
            Some(hand) => {
                let row = live.ok_or(WriteError::UnknownCompute)?;
                is_at(row, Some(hand.if_match))?;
                Ok(register(&hand.compute_id, &row.agent_url, &row.labels, Some(&hand.spec), before, stamp))
            }
            None => Ok(of_rollout(change, stamp)),
        },
        Change::SetPolicy { compute_id, policy } => {
            let row = live.ok_or(WriteError::UnknownCompute)?;
            Ok(set_policy(compute_id, *policy, row, stamp))
        }
        Change::Act { compute_id, action } => {
            let row = live.ok_or(WriteError::UnknownCompute)?;
            Ok(act(compute_id, *action, row, stamp))
        }
        Change::Acted { compute_id, generation } => {
            let row = live.ok_or(WriteError::UnknownCompute)?;
            Ok(acted(compute_id, *generation, row, stamp))
        }
        Change::Lift { compute_id, seen, above, .. } => {
            let row = live.ok_or(WriteError::UnknownCompute)?;
            Ok(lift(compute_id, *seen, *above, row, stamp))
        }
        Change::Delete { compute_id } => {
            let row = live.ok_or(WriteError::UnknownCompute)?;
            Ok(delete(compute_id, row, stamp))
        }
        Change::Observed { compute_id, observed } => {
            let row = live.ok_or(WriteError::UnknownCompute)?;
            Ok(observe(compute_id, row, observed, seen, stamp))
        }
        Change::Journal(action) => Ok(Planned {
            answer: Committed {
                compute_id: action.compute_id.clone(),
                generation: live.map_or(Generation(0), |row| row.generation),
                spec_hash: live.and_then(|row| row.spec_hash.clone()),
                changed: true,
                change_seq: stamp.last + 1,
                record: None,
                observed: None,
                deleted: false,
            },
            write: Some(Write::Journal(action.clone())),
        }),
    }
}

/// The condition of a caller that believes to know the current generation.
fn is_at(row: &Before, wanted: Option<Generation>) -> Result<(), WriteError> {
    match wanted {
        Some(wanted) if wanted != row.generation => {
            Err(WriteError::PreconditionFailed { generation: row.generation, spec_hash: row.spec_hash.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

fn of_rollout(change: &RolloutChange, stamp: Stamp) -> Planned {
    let changed = *change != RolloutChange::Barrier;
    let answer = Committed {
        compute_id: None,
        generation: Generation(0),
        spec_hash: None,
        changed,
        change_seq: if changed { stamp.last + 1 } else { stamp.last },
        record: None,
        observed: None,
        deleted: false,
    };
    Planned { answer, write: changed.then_some(Write::Rollout) }
}

fn register(
    compute_id: &ComputeId,
    agent_url: &str,
    labels: &Labels,
    spec: Option<&NewSpec>,
    before: Option<&Before>,
    stamp: Stamp,
) -> Planned {
    let live = before.filter(|row| !row.deleted);
    let held = live.and_then(|row| row.spec_hash.as_ref());
    let current = before.map_or(Generation(0), |row| row.generation);
    let new_content = spec.is_some_and(|new| held != Some(&new.hash));
    let changed = new_content || live.is_none_or(|row| row.agent_url != agent_url || &row.labels != labels);
    let policy = live.map(|row| row.policy).unwrap_or_default();
    let record = ComputeRecord {
        compute_id: compute_id.clone(),
        agent_url: agent_url.to_owned(),
        labels: Arc::clone(labels),
        generation: if new_content { current.next() } else { current },
        suspend_timeout_s: match spec {
            Some(new) => new.suspend_timeout_s,
            None => live.and_then(|row| row.suspend_timeout_s),
        }
        .filter(|_| wants_timeout(policy)),
        spec_hash: spec.map(|new| new.hash.clone()).or_else(|| held.cloned()),
        policy,
        change_seq: if changed { stamp.last + 1 } else { live.map_or(0, |row| row.change_seq) },
        created_at: live.map_or(stamp.now, |row| row.created_at),
        updated_at: if changed { stamp.now } else { live.map_or(stamp.now, |row| row.updated_at) },
    };
    Planned {
        answer: Committed {
            compute_id: Some(compute_id.clone()),
            generation: record.generation,
            spec_hash: record.spec_hash.clone(),
            changed,
            change_seq: if changed { stamp.last + 1 } else { stamp.last },
            record: Some(record.clone()),
            observed: None,
            deleted: false,
        },
        write: changed.then_some(Write::Compute(record)),
    }
}

fn delete(compute_id: &ComputeId, row: &Before, stamp: Stamp) -> Planned {
    let write = Write::Tombstone {
        compute_id: compute_id.clone(),
        agent_url: row.agent_url.clone(),
        generation: row.generation,
        created_at: row.created_at,
    };
    let answer = Committed { deleted: true, spec_hash: None, ..about(compute_id, row, stamp.last + 1) };
    Planned { answer, write: Some(write) }
}

fn lift(compute_id: &ComputeId, seen: Generation, above: Generation, row: &Before, stamp: Stamp) -> Planned {
    if row.generation != seen || above < seen || row.spec_hash.is_none() {
        return nothing(compute_id, row, stamp);
    }
    // An action that was still wanted is wanted under the new generation.
    let pending = row.policy.wanted(row.generation).map(|action| PendingAction { generation: above.next(), ..action });
    renewed(compute_id, above.next(), Policy { pending, ..row.policy }, row, stamp)
}

fn act(compute_id: &ComputeId, action: Option<(ActionKind, TerminateMode)>, row: &Before, stamp: Stamp) -> Planned {
    if row.spec_hash.is_none() || row.policy.mode != Mode::Active {
        return nothing(compute_id, row, stamp);
    }
    let generation = row.generation.next();
    let pending = action.map(|(action, mode)| PendingAction { action, mode, generation });
    renewed(compute_id, generation, Policy { pending, ..row.policy }, row, stamp)
}

fn acted(compute_id: &ComputeId, generation: Generation, row: &Before, stamp: Stamp) -> Planned {
    match row.policy.wanted(row.generation).filter(|pending| pending.generation == generation) {
        Some(PendingAction { action: ActionKind::Delete, .. }) => delete(compute_id, row, stamp),
        Some(PendingAction { action: ActionKind::Terminate, .. }) => {
            renewed(compute_id, generation, Policy { pending: None, ..row.policy }, row, stamp)
        }
        None => nothing(compute_id, row, stamp),
    }
}

fn nothing(compute_id: &ComputeId, row: &Before, stamp: Stamp) -> Planned {
    Planned { answer: Committed { changed: false, ..about(compute_id, row, stamp.last) }, write: None }
}

/// The same content under this generation and policy.
fn renewed(compute_id: &ComputeId, generation: Generation, policy: Policy, row: &Before, stamp: Stamp) -> Planned {
    let record = ComputeRecord {
        compute_id: compute_id.clone(),
        agent_url: row.agent_url.clone(),
        labels: row.labels.clone(),
        generation,
        suspend_timeout_s: row.suspend_timeout_s.filter(|_| wants_timeout(policy)),
        spec_hash: row.spec_hash.clone(),
        policy,
        change_seq: stamp.last + 1,
        created_at: row.created_at,
        updated_at: stamp.now,
    };
    let answer = Committed { generation, record: Some(record.clone()), ..about(compute_id, row, stamp.last + 1) };
    Planned { answer, write: Some(Write::Compute(record)) }
}

fn set_policy(compute_id: &ComputeId, policy: PutPolicy, row: &Before, stamp: Stamp) -> Planned {
    let wanted = policy.onto(row.policy);
    let changed = wanted != row.policy;
    let record = ComputeRecord {
        compute_id: compute_id.clone(),
        agent_url: row.agent_url.clone(),
        labels: row.labels.clone(),
        generation: row.generation,
        suspend_timeout_s: row.suspend_timeout_s.filter(|_| wants_timeout(wanted)),
        spec_hash: row.spec_hash.clone(),
        policy: wanted,
        change_seq: if changed { stamp.last + 1 } else { row.change_seq },
        created_at: row.created_at,
        updated_at: if changed { stamp.now } else { row.updated_at },
    };
    let change_seq = if changed { stamp.last + 1 } else { stamp.last };
    let answer = Committed { changed, record: Some(record.clone()), ..about(compute_id, row, change_seq) };
    Planned { answer, write: changed.then_some(Write::Compute(record)) }
}

fn observe(
    compute_id: &ComputeId,
    row: &Before,
    observed: &Observed,
    seen: Option<&Observed>,
    stamp: Stamp,
) -> Planned {
    // The same life of an agent counts its changes: a lower number is an older report that was overtaken.
    let is_news = seen.is_none_or(|old| {
        old != observed && (old.boot_id != observed.boot_id || old.status_seq <= observed.status_seq)
    });
    let kept = if is_news { observed } else { seen.unwrap_or(observed) };
    let answer = Committed {
        changed: is_news,
        observed: Some(kept.clone()),
        ..about(compute_id, row, if is_news { stamp.last + 1 } else { stamp.last })
    };
    let write = is_news.then(|| Write::Observed {
        compute_id: compute_id.clone(),
        observed: Box::new(observed.clone()),
        transition: transition(seen, observed),
    });
    Planned { answer, write }
}

/// How many failed objects a journal entry names.
const JOURNALLED_FAILURES: usize = 20;

/// What the journal keeps of a report; nothing if only counters moved.
fn transition(seen: Option<&Observed>, now: &Observed) -> Option<Value> {
    let same = seen.is_some_and(|old| {
        old.state == now.state
            && old.boot_id == now.boot_id
            && old.applied_generation == now.applied_generation
            && old.rejected_generation == now.rejected_generation
            && old.error == now.error
            && old.failures == now.failures
    });
    if same {
        return None;
    }
    Some(json!({
        "from": seen.map(|old| old.state),
        "to": now.state,
        "boot_id": now.boot_id,
        "generation": now.generation,
        "applied_generation": now.applied_generation,
        "rejected_generation": now.rejected_generation,
        "error": now.error,
        "error_detail": now.error_detail,
        "failures": now.failures.iter().take(JOURNALLED_FAILURES).collect::<Vec<_>>(),
        "failures_total": now.failures.len(),
    }))
}

fn about(compute_id: &ComputeId, row: &Before, change_seq: i64) -> Committed {
    Committed {
        compute_id: Some(compute_id.clone()),
        generation: row.generation,
        spec_hash: row.spec_hash.clone(),
        changed: true,
        change_seq,
        record: None,
        observed: None,
        deleted: false,
    }
}
