//! The SQL of one batch: fence and read the rows it is about in one round trip, plan, and write in another one with one
//! multi-row statement per kind.
//!
//! Called by: `task`, inside its fenced transaction. Invariant: what is read here cannot change before the commit,
//! because only the one writer under the fence writes these tables.

use std::collections::HashMap;
use std::future::Future;

use chrono::{DateTime, Utc};
use pgfleet_api::compute::Observed;
use pgfleet_api::policy::Policy;
use pgfleet_api::{ComputeId, Generation, Term};
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::plan::{Before, Planned, Stamp, Write, plan};
use super::rollout::RolloutRows;
use super::{Change, Item, WriteError};
use crate::database::Database;
use crate::error::DbError;
use crate::lease::bounded;
use crate::records::{JournalKind, labels_of, observed_of, policy_of, spec_hash_of, timeout_of};
use crate::session::Session;
use crate::term::{FENCE, LeaderTerm};

const READ_COMPUTES: &str = "
    SELECT compute_id, agent_url, labels, generation, CASE WHEN compute_id = ANY($2) THEN (spec->'suspend_timeout_seconds')::text END,
           spec_hash, change_seq, created_at, updated_at, deleted_at IS NOT NULL, policy
    FROM computes WHERE compute_id = ANY($1)";

const READ_OBSERVED: &str = "SELECT compute_id, observed FROM observed WHERE compute_id = ANY($1)";

/// A spec that stays as it is comes without a text and is copied here from the row, so that it is read by nobody.
/// A policy is written only by whoever changes it, and merged, so that what a later build keeps there survives this one.
const WRITE_COMPUTES: &str = "
    INSERT INTO computes (compute_id, agent_url, labels, generation, spec, spec_hash, change_seq, created_at,
                          updated_at, deleted_at, policy)
    SELECT compute_id, agent_url, labels::jsonb, generation,
           CASE WHEN spec IS NULL AND spec_hash IS NOT NULL
                THEN (SELECT c.spec FROM computes c WHERE c.compute_id = t.compute_id AND c.spec_hash = t.spec_hash)
                ELSE spec::jsonb END,
           spec_hash, change_seq, created_at, $9::timestamptz, CASE WHEN deleted THEN $9::timestamptz END,
           coalesce(policy::jsonb, '{}')
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[],
                $8::timestamptz[], $10::boolean[], $11::text[])
         AS t (compute_id, agent_url, labels, generation, spec, spec_hash, change_seq, created_at, deleted, policy)
    ON CONFLICT (compute_id) DO UPDATE
    SET agent_url = excluded.agent_url, labels = excluded.labels, generation = excluded.generation,
        spec = excluded.spec, spec_hash = excluded.spec_hash, change_seq = excluded.change_seq,
        created_at = excluded.created_at, updated_at = excluded.updated_at, deleted_at = excluded.deleted_at,
        policy = CASE WHEN computes.deleted_at IS NULL AND excluded.deleted_at IS NULL
                      THEN computes.policy || excluded.policy ELSE excluded.policy END";

const FORGET_OBSERVED: &str = "DELETE FROM observed WHERE compute_id = ANY($1)";

const WRITE_OBSERVED: &str = "
    INSERT INTO observed (compute_id, state, observed, change_seq, updated_at)
    SELECT compute_id, state, body::jsonb, change_seq, $5::timestamptz
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS t (compute_id, state, body, change_seq)
    ON CONFLICT (compute_id) DO UPDATE
    SET state = excluded.state, observed = excluded.observed, change_seq = excluded.change_seq,
        updated_at = excluded.updated_at";

const WRITE_JOURNAL: &str = "
    INSERT INTO journal (at, change_seq, compute_id, term, kind, actor, reason, detail)
    SELECT $7::timestamptz, change_seq, compute_id, $8::bigint, kind, actor, reason, detail::jsonb
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
         AS t (change_seq, compute_id, kind, actor, reason, detail)";

/// Moves the cursor and locks its row until the end of the transaction: whoever wants to know later whether this
/// transaction committed asks for the same lock, and thereby waits for its end.
const MOVE_CURSOR: &str = "
    WITH moved AS (UPDATE change_cursor SET last_change = $2 WHERE last_change = $1 RETURNING last_change)
    SELECT pg_notify('pgfleet_change', last_change::text) FROM moved";

pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

pub(super) const LOCK_CURSOR: &str = "SELECT last_change FROM change_cursor FOR UPDATE";

/// Parameters of a statement, for futures that are polled side by side.
type Params<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];

/// The writer's connection with its statements prepared.
pub(crate) struct Wire {
    session: Session,
    pub(super) fence: Statement,
    pub(super) lock_cursor: Statement,
    move_cursor: Statement,
    read_computes: Statement,
    read_observed: Statement,
    write_computes: Statement,
    forget_observed: Statement,
    write_observed: Statement,
    write_journal: Statement,
}

impl Wire {
    /// Connects and prepares.
    pub(crate) async fn open(db: &Database) -> Result<Self, DbError> {
        let session = db.control_session().await?;
        let prepare = async { Self::prepare(session).await.map_err(DbError::query("prepared the writer")) };
        bounded(db.connector().patience(), "prepared the writer", prepare).await
    }

    async fn prepare(session: Session) -> Result<Self, Error> {
        let client = session.client();
        Ok(Self {
            fence: client.prepare(FENCE).await?,
            lock_cursor: client.prepare(LOCK_CURSOR).await?,
            move_cursor: client.prepare(MOVE_CURSOR).await?,
            read_computes: client.prepare(READ_COMPUTES).await?,
            read_observed: client.prepare(READ_OBSERVED).await?,
            write_computes: client.prepare(WRITE_COMPUTES).await?,
            forget_observed: client.prepare(FORGET_OBSERVED).await?,
            write_observed: client.prepare(WRITE_OBSERVED).await?,
            write_journal: client.prepare(WRITE_JOURNAL).await?,
            session,
        })
    }

    pub(super) fn client(&self) -> &Client {
        self.session.client()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Begins a transaction with the fence and reads what the items are about, in one round trip: every statement takes
    /// its own snapshot, after the fence holds its lock. `None`: the fence found no row.
    pub(super) async fn begin(&self, items: &[Item], term: &LeaderTerm) -> Result<Option<Found>, DbError> {
        let ids: Vec<&str> = items.iter().filter_map(|item| item.change.compute_id()).map(ComputeId::as_str).collect();
        let keeping = ids_of(items, |change| {
            matches!(change, Change::Register { spec: None, .. } | Change::Lift { .. }) || changes_policy(change)
        });
        let reported = ids_of(items, |change| matches!(change, Change::Observed { .. }));
        let (number, instance) = (term.term().get(), term.instance_id().0);
        let (fence_params, computes_params, observed_params): (Params<2>, Params<2>, Params<1>) =
            ([&number, &instance], [&ids, &keeping], [&reported]);
        let client = self.client();
        let observed = async {
            if reported.is_empty() { Ok(Vec::new()) } else { client.query(&self.read_observed, &observed_params).await }
        };
        let (begun, fence, computes, observed) = tokio::join!(
            biased;
            client.batch_execute(BEGIN),
            client.query_opt(&self.fence, &fence_params),
            client.query(&self.read_computes, &computes_params),
            observed,
        );
        begun.map_err(DbError::query("began a batch"))?;
        let Some(fence) = fence.map_err(DbError::query("checked the fence"))? else { return Ok(None) };
        let computes = computes.map_err(DbError::query("read the computes of a batch"))?;
        let observed = observed.map_err(DbError::query("read what was observed"))?;
        Ok(Some(Found {
            now: fence.get(0),
            before: computes.iter().map(before_of).collect::<Result<_, _>>()?,
            seen: observed
                .iter()
                .map(|row| Ok::<_, DbError>((row.get(0), observed_of(row.get(1))?)))
                .collect::<Result<_, _>>()?,
        }))
    }

    /// Moves the cursor from `last` to the last number given, and writes what was planned.
    pub(super) async fn write(&self, rows: &Rows, last: i64, now: DateTime<Utc>, term: Term) -> Result<(), DbError> {
        let client = self.client();
        rows.rollouts.write(client, now).await?;
        let (c, o, j) = (&rows.computes, &rows.observed, &rows.journal);
        let number = term.get();
        let (cursor_params, forget_params): (Params<2>, Params<1>) = ([&last, &rows.last], [&rows.forgotten]);
        let computes_params: Params<11> = [
            &c.ids,
            &c.urls,
            &c.labels,
            &c.generations,
            &c.specs,
            &c.hashes,
            &c.seqs,
            &c.created,
            &now,
            &c.deleted,
            &c.policies,
        ];
        let observed_params: Params<5> = [&o.ids, &o.states, &o.bodies, &o.seqs, &now];
        let journal_params: Params<8> = [&j.seqs, &j.ids, &j.kinds, &j.actors, &j.reasons, &j.details, &now, &number];
        // Sent in one go. The cursor first: one that is not where we left it makes the later statements trip over numbers
        // that were used before, and must be what is told.
        let (moved, computes, forgotten, observed, journal) = tokio::join!(
            biased;
            client.query_opt(&self.move_cursor, &cursor_params),
            some(!c.ids.is_empty(), client.execute(&self.write_computes, &computes_params)),
            some(!rows.forgotten.is_empty(), client.execute(&self.forget_observed, &forget_params)),
            some(!o.ids.is_empty(), client.execute(&self.write_observed, &observed_params)),
            some(!j.seqs.is_empty(), client.execute(&self.write_journal, &journal_params)),
        );
        if moved.map_err(DbError::query("moved the change cursor"))?.is_none() {
            return Err(DbError::CursorMoved { expected: last, found: None });
        }
        computes.map_err(DbError::query("wrote computes"))?;
        forgotten.map_err(DbError::query("forgot what was observed"))?;
        observed.map_err(DbError::query("wrote what was observed"))?;
        journal.map_err(DbError::query("wrote the journal"))?;
        Ok(())
    }
}

/// Runs a statement that has something to do.
async fn some(needed: bool, statement: impl Future<Output = Result<u64, Error>>) -> Result<u64, Error> {
    if needed { statement.await } else { Ok(0) }
}

fn ids_of(items: &[Item], wanted: impl Fn(&Change) -> bool) -> Vec<&str> {
    items
        .iter()
        .filter(|item| wanted(&item.change))
        .filter_map(|item| item.change.compute_id())
        .map(ComputeId::as_str)
        .collect()
}

fn before_of(row: &Row) -> Result<(String, Before), DbError> {
    let before = Before {
        agent_url: row.get(1),
        labels: labels_of(row.get(2))?,
        generation: Generation(row.get(3)),
        suspend_timeout_s: timeout_of(row.get(4)),
        spec_hash: spec_hash_of(row.get(5))?,
        policy: policy_of(row.get(10)),
        change_seq: row.get(6),
        created_at: row.get(7),
        updated_at: row.get(8),
        deleted: row.get(9),
    };
    Ok((row.get(0), before))
}

/// What a batch is about, as its transaction found it.
pub(super) struct Found {
    /// The transaction's time.
    pub(super) now: DateTime<Utc>,
    before: HashMap<String, Before>,
    seen: HashMap<String, Observed>,
}

impl Found {
    /// Plans every item against the rows as they are, numbering the changes from `last + 1` in the items' order.
    pub(super) fn plan(&self, items: &[Item], last: i64) -> Vec<Result<Planned, WriteError>> {
        let mut stamp = Stamp { last, now: self.now };
        let mut planned = Vec::with_capacity(items.len());
        for item in items {
            let id = item.change.compute_id().map(ComputeId::as_str);
            let row = id.and_then(|id| self.before.get(id));
            let old = id.and_then(|id| self.seen.get(id));
            let one = plan(&item.change, row, old, stamp);
            if let Ok(Planned { answer, write: Some(_) }) = &one {
                stamp.last = answer.change_seq;
            }
            planned.push(one);
        }
        planned
    }
}

/// The rows of a batch in columns, as `unnest` takes them.
#[derive(Default)]
pub(super) struct Rows {
    /// The last number given.
    pub(super) last: i64,
    computes: ComputeColumns,
    forgotten: Vec<String>,
    observed: ObservedColumns,
    journal: JournalColumns,
    rollouts: RolloutRows,
}

#[derive(Default)]
struct ComputeColumns {
    ids: Vec<String>,
    urls: Vec<String>,
    labels: Vec<String>,
    generations: Vec<i64>,
    specs: Vec<Option<String>>,
    hashes: Vec<Option<String>>,
    seqs: Vec<i64>,
    created: Vec<DateTime<Utc>>,
    deleted: Vec<bool>,
    policies: Vec<Option<String>>,
}

#[derive(Default)]
struct ObservedColumns {
    ids: Vec<String>,
    states: Vec<&'static str>,
    bodies: Vec<String>,
    seqs: Vec<i64>,
}

#[derive(Default)]
struct JournalColumns {
    seqs: Vec<i64>,
    ids: Vec<Option<String>>,
    kinds: Vec<&'static str>,
    actors: Vec<String>,
    reasons: Vec<Option<String>>,
    details: Vec<String>,
}

impl Rows {
    /// The rows of what was planned; none if nothing is news.
    pub(super) fn of(items: &[Item], planned: &[Result<Planned, WriteError>]) -> Result<Option<Self>, DbError> {
        let mut rows = Self::default();
        for (item, one) in items.iter().zip(planned) {
            if let Ok(Planned { answer, write: Some(write) }) = one {
                rows.last = answer.change_seq;
                rows.push(write, answer.change_seq, item)?;
                if let (Some(asker), Some(detail)) = (&item.asker, action(&item.change, write)) {
                    let (id, reason) = (item.change.compute_id(), asker.reason.clone());
                    rows.line(answer.change_seq, id, JournalKind::Action, &asker.actor, reason, &detail)?;
                }
            }
        }
        Ok((rows.last > 0).then_some(rows))
    }

    fn push(&mut self, write: &Write, seq: i64, item: &Item) -> Result<(), DbError> {
        if let Change::Rollout(change) = &item.change {
            let written = if let Write::Compute(record) = write { record.generation } else { Generation(0) };
            self.rollouts.push(change, written);
        }
        match write {
            Write::Rollout => {}
            Write::Compute(record) => {
                let c = &mut self.computes;
                c.ids.push(record.compute_id.to_string());
                c.urls.push(record.agent_url.clone());
                c.labels.push(text_of(record.labels.as_ref())?);
                c.generations.push(record.generation.get());
                c.specs.push(item.change.new_spec().map(|new| new.spec.as_str().to_owned()));
                c.hashes.push(record.spec_hash.as_ref().map(ToString::to_string));
                c.seqs.push(seq);
                c.created.push(record.created_at);
                c.deleted.push(false);
                let sets = changes_policy(&item.change);
                c.policies.push(sets.then(|| text_of(&record.policy)).transpose()?);
            }
            Write::Tombstone { compute_id, agent_url, generation, created_at } => {
                let c = &mut self.computes;
                c.ids.push(compute_id.to_string());
                c.urls.push(agent_url.clone());
                c.labels.push("{}".to_owned());
                c.generations.push(generation.get());
                c.specs.push(None);
                c.hashes.push(None);
                c.seqs.push(seq);
                c.created.push(*created_at);
                c.deleted.push(true);
                c.policies.push(None);
                self.forgotten.push(compute_id.to_string());
            }
            Write::Observed { compute_id, observed, transition } => {
                let o = &mut self.observed;
                o.ids.push(compute_id.to_string());
                o.states.push(observed.state.as_str());
                o.bodies.push(text_of(observed)?);
                o.seqs.push(seq);
                if let Some(detail) = transition {
                    self.line(seq, Some(compute_id), JournalKind::Transition, "agent", None, detail)?;
                }
            }
            Write::Journal(action) => {
                let (id, reason) = (action.compute_id.as_ref(), action.reason.clone());
                self.line(seq, id, JournalKind::Action, &action.actor, reason, &action.detail)?;
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        seq: i64,
        id: Option<&ComputeId>,
        kind: JournalKind,
        actor: &str,
        reason: Option<String>,
        detail: &Value,
    ) -> Result<(), DbError> {
        let j = &mut self.journal;
        j.seqs.push(seq);
        j.ids.push(id.map(ToString::to_string));
        j.kinds.push(kind.as_str());
        j.actors.push(actor.to_owned());
        j.reasons.push(reason);
        j.details.push(text_of(detail)?);
        Ok(())
    }
}

/// Whether a change keeps the spec and may change the policy.
fn changes_policy(change: &Change) -> bool {
    matches!(change, Change::SetPolicy { .. } | Change::Act { .. } | Change::Acted { .. } | Change::Lift { .. })
}

/// What the journal keeps of somebody's wish.
fn action(change: &Change, write: &Write) -> Option<Value> {
    match (change, write) {
        (Change::Register { .. }, Write::Compute(record)) => Some(json!({
            "op": "register",
            "agent_url": record.agent_url,
            "labels": record.labels.as_ref(),
            "generation": record.generation,
            "spec_hash": record.spec_hash,
        })),
        (Change::PutSpec { .. }, Write::Compute(record)) => {
            Some(json!({"op": "put_spec", "generation": record.generation, "spec_hash": record.spec_hash}))
        }
        (Change::SetPolicy { .. }, Write::Compute(record)) => {
            let Policy { suspend, mode, .. } = record.policy;
            Some(json!({"op": "put_policy", "policy": {"suspend": suspend, "mode": mode}}))
        }
        (Change::Act { action, .. }, Write::Compute(record)) => {
            let op = action.map_or("refresh", |(action, _)| action.as_str());
            Some(json!({
                "op": op,
                "mode": action.map(|(_, mode)| mode),
                "generation": record.generation,
                "spec_hash": record.spec_hash,
            }))
        }
        (Change::Acted { .. }, Write::Compute(record)) => {
            Some(json!({"op": "terminated", "generation": record.generation}))
        }
        (Change::Lift { seen, above, agent_hash, .. }, Write::Compute(record)) => Some(json!({
            "op": "lift",
            "agent_generation": above,
            "agent_spec_hash": agent_hash,
            "database_generation": seen,
            "generation": record.generation,
            "spec_hash": record.spec_hash,
        })),
        (Change::Rollout(change), Write::Compute(record)) => change.action(Some(record.generation)),
        (Change::Rollout(change), Write::Rollout) => change.action(None),
        (Change::Delete { .. } | Change::Acted { .. }, Write::Tombstone { generation, .. }) => {
            Some(json!({"op": "delete", "generation": generation}))
        }
        _ => None,
    }
}

fn text_of(value: &impl serde::Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::content("value that is no JSON", error))
}
