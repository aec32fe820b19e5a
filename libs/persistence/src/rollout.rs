//! Roll-outs as the database has them: read by the leader when it takes over, and by the routes that show them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use pgfleet_api::rollout::{RolloutComputesQuery, RolloutPhase, TargetPhase};
use pgfleet_api::{ComputeId, Generation, RolloutId, SpecHash};
use serde_json::Value;

use crate::database::Database;
use crate::error::DbError;
use crate::records::SpecRecord;
use crate::schema::{computes, rollout_computes, rollouts};

/// A roll-out without its computes.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutRecord {
    /// Its name.
    pub rollout_id: RolloutId,
    /// As it was asked for.
    pub request: Value,
    /// The numbers that the strategy came to.
    pub plan: Value,
    /// Where it stands.
    pub phase: RolloutPhase,
    /// What a pause or halt interrupts.
    pub resumes: Option<RolloutPhase>,
    /// Why it halted, one word.
    pub halted: Option<String>,
    /// The wave.
    pub wave: u32,
    /// Who started it.
    pub started_by: String,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When its phase last changed.
    pub updated_at: DateTime<Utc>,
}

/// A compute of a roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRecord {
    /// Its place.
    pub ordinal: u32,
    /// Which.
    pub compute_id: ComputeId,
    /// Where it stands.
    pub phase: TargetPhase,
    /// Its generation before.
    pub previous_generation: Option<Generation>,
    /// The generation of its new spec.
    pub generation: Option<Generation>,
    /// The content of its new spec.
    pub spec_hash: Option<SpecHash>,
    /// The generation under which its previous spec was put back.
    pub restored_generation: Option<Generation>,
    /// Why it stands there.
    pub error: Option<String>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = rollouts)]
struct RolloutRow {
    rollout_id: String,
    request: Value,
    plan: Value,
    phase: String,
    resumes: Option<String>,
    halted: Option<String>,
    wave: i32,
    started_by: String,
    reason: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = rollout_computes)]
struct TargetRow {
    ordinal: i32,
    compute_id: String,
    phase: String,
    previous_generation: Option<i64>,
    generation: Option<i64>,
    spec_hash: Option<String>,
    restored_generation: Option<i64>,
    error: Option<String>,
}

impl Database {
    /// One roll-out.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn rollout(&self, rollout_id: &RolloutId) -> Result<Option<RolloutRecord>, DbError> {
        const DOING: &str = "read a roll-out";
        let mut conn = self.pooled(DOING).await?;
        let row: Option<RolloutRow> = rollouts::table
            .find(rollout_id.as_str())
            .select(RolloutRow::as_select())
            .first(&mut conn)
            .await
            .optional()
            .map_err(DbError::diesel(DOING))?;
        row.map(record_of).transpose()
    }

    /// Those that are not over.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn rollouts_under_way(&self) -> Result<Vec<RolloutRecord>, DbError> {
        const DOING: &str = "read the roll-outs under way";
        let mut conn = self.pooled(DOING).await?;
        let rows: Vec<RolloutRow> = rollouts::table
            .filter(rollouts::ended_at.is_null())
            .order(rollouts::rollout_id)
            .select(RolloutRow::as_select())
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        rows.into_iter().map(record_of).collect()
    }

    /// At most `limit` roll-outs that were started before this one, the newest first.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn rollouts(&self, before: Option<&RolloutId>, limit: i64) -> Result<Vec<RolloutRecord>, DbError> {
        const DOING: &str = "read roll-outs";
        let from = match before {
            Some(id) => match self.rollout(id).await? {
                Some(known) => Some((known.created_at, known.rollout_id.to_string())),
                None => return Ok(Vec::new()),
            },
            None => None,
        };
        let mut conn = self.pooled(DOING).await?;
        let mut query = rollouts::table.into_boxed();
        if let Some((created_at, id)) = from {
            let same = rollouts::created_at.eq(created_at).and(rollouts::rollout_id.gt(id));
            query = query.filter(rollouts::created_at.lt(created_at).or(same));
        }
        let rows: Vec<RolloutRow> = query
            .order((rollouts::created_at.desc(), rollouts::rollout_id))
            .limit(limit)
            .select(RolloutRow::as_select())
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        rows.into_iter().map(record_of).collect()
    }

    /// How many of its computes stand where.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn rollout_counts(&self, rollout_id: &RolloutId) -> Result<Vec<(TargetPhase, u32)>, DbError> {
        const DOING: &str = "counted the computes of a roll-out";
        let mut conn = self.pooled(DOING).await?;
        let rows: Vec<(String, i64)> = rollout_computes::table
            .filter(rollout_computes::rollout_id.eq(rollout_id.as_str()))
            .group_by(rollout_computes::phase)
            .select((rollout_computes::phase, diesel::dsl::count_star()))
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        rows.into_iter().map(|(phase, count)| Ok((word(phase)?, u32::try_from(count).unwrap_or(u32::MAX)))).collect()
    }

    /// At most `limit` of its computes, in their order.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn rollout_computes(
        &self,
        rollout_id: &RolloutId,
        query: &RolloutComputesQuery,
        limit: i64,
    ) -> Result<Vec<TargetRecord>, DbError> {
        let phases = query.phase.map(|phase| vec![phase]);
        self.targets(rollout_id, phases.as_deref(), query.cursor, limit).await
    }

    /// At most `limit` of its computes that an operator may want to read about.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn rollout_troubles(&self, rollout_id: &RolloutId, limit: i64) -> Result<Vec<TargetRecord>, DbError> {
        let troubles: Vec<TargetPhase> = TargetPhase::ALL.into_iter().filter(|phase| phase.is_trouble()).collect();
        self.targets(rollout_id, Some(&troubles), None, limit).await
    }

    async fn targets(
        &self,
        rollout_id: &RolloutId,
        phases: Option<&[TargetPhase]>,
        after: Option<u32>,
        limit: i64,
    ) -> Result<Vec<TargetRecord>, DbError> {
        const DOING: &str = "read the computes of a roll-out";
        let mut conn = self.pooled(DOING).await?;
        let after = after.map_or(-1, |ordinal| i32::try_from(ordinal).unwrap_or(i32::MAX));
        let mut query = rollout_computes::table
            .filter(rollout_computes::rollout_id.eq(rollout_id.as_str()))
            .filter(rollout_computes::ordinal.gt(after))
            .into_boxed();
        if let Some(phases) = phases {
            let words: Vec<&str> = phases.iter().map(|phase| phase.as_str()).collect();
            query = query.filter(rollout_computes::phase.eq_any(words));
        }
        let rows: Vec<TargetRow> = query
            .order(rollout_computes::ordinal)
            .limit(limit)
            .select(TargetRow::as_select())
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        rows.into_iter().map(target_of).collect()
    }

    /// The current specs of some computes; one that is unknown or has none is left out.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn specs_of(&self, ids: &[ComputeId]) -> Result<BTreeMap<ComputeId, SpecRecord>, DbError> {
        const DOING: &str = "read specs";
        let mut conn = self.pooled(DOING).await?;
        let wanted: Vec<&str> = ids.iter().map(ComputeId::as_str).collect();
        let rows: Vec<(String, i64, Option<String>, Option<Value>)> = computes::table
            .filter(computes::compute_id.eq_any(wanted))
            .filter(computes::deleted_at.is_null())
            .select((computes::compute_id, computes::generation, computes::spec_hash, computes::spec))
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        let mut found = BTreeMap::new();
        for (id, generation, hash, spec) in rows {
            let id: ComputeId = id.parse().map_err(|error| DbError::content("compute id", error))?;
            if let (Some(spec), Some(spec_hash)) = (spec, parsed(hash, "spec hash")?) {
                found.insert(id, SpecRecord { generation: Generation(generation), spec_hash, spec });
            }
        }
        Ok(found)
    }

    /// What some of its computes had before, with the content's hash.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn rollout_previous(
        &self,
        rollout_id: &RolloutId,
        ordinals: &[u32],
    ) -> Result<Vec<(u32, Value, SpecHash)>, DbError> {
        const DOING: &str = "read what computes had before a roll-out";
        let mut conn = self.pooled(DOING).await?;
        let wanted: Vec<i32> = ordinals.iter().filter_map(|ordinal| i32::try_from(*ordinal).ok()).collect();
        let rows: Vec<(i32, Option<Value>, Option<String>)> = rollout_computes::table
            .filter(rollout_computes::rollout_id.eq(rollout_id.as_str()))
            .filter(rollout_computes::ordinal.eq_any(wanted))
            .select((rollout_computes::ordinal, rollout_computes::previous_spec, rollout_computes::previous_hash))
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        let mut found = Vec::with_capacity(rows.len());
        for (ordinal, spec, hash) in rows {
            if let (Some(spec), Some(hash)) = (spec, parsed(hash, "spec hash")?) {
                found.push((number(ordinal), spec, hash));
            }
        }
        Ok(found)
    }
}

fn record_of(row: RolloutRow) -> Result<RolloutRecord, DbError> {
    Ok(RolloutRecord {
        rollout_id: row.rollout_id.parse().map_err(|error| DbError::content("roll-out id", error))?,
        request: row.request,
        plan: row.plan,
        phase: word(row.phase)?,
        resumes: row.resumes.map(word).transpose()?,
        halted: row.halted,
        wave: number(row.wave),
        started_by: row.started_by,
        reason: row.reason,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}

fn target_of(row: TargetRow) -> Result<TargetRecord, DbError> {
    Ok(TargetRecord {
        ordinal: number(row.ordinal),
        compute_id: row.compute_id.parse().map_err(|error| DbError::content("compute id", error))?,
        phase: word(row.phase)?,
        previous_generation: row.previous_generation.map(Generation),
        generation: row.generation.map(Generation),
        spec_hash: parsed(row.spec_hash, "spec hash")?,
        restored_generation: row.restored_generation.map(Generation),
        error: row.error,
    })
}

fn parsed<T: FromStr<Err: Display>>(text: Option<String>, what: &'static str) -> Result<Option<T>, DbError> {
    text.map(|text| text.parse()).transpose().map_err(|error| DbError::content(what, error))
}

/// A word that only a later build knows reads as unknown.
fn word<T: serde::de::DeserializeOwned>(text: String) -> Result<T, DbError> {
    serde_json::from_value(Value::String(text)).map_err(|error| DbError::content("phase", error))
}

fn number(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}
