//! Use cases about computes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_api::compute::{
    ComputeList, ComputeView, ListQuery, RegisterCompute, SpecAccepted, SpecView, WaitOutcome, WaitQuery, WaitResult,
};
use pgfleet_api::policy::PutPolicy;
use pgfleet_api::{ComputeId, Generation, SpecHash};
use pgfleet_domain::reconcile::settled;
use pgfleet_domain::spec::{SpecError, parse, spec_hash};
use pgfleet_persistence::{Action, Asker, Change, Committed, NewSpec, WriteError};
use serde_json::{Value, json};

use super::rules::check_registration;
use super::{Desk, Leading, Operation, ServiceError};
use crate::observe::{Entry, Filter, Snapshot};

pub(super) const PAGE: u32 = 100;
pub(super) const MAX_PAGE: u32 = 1000;
/// Seconds that a wait takes if it does not say.
pub const WAIT_S: u64 = 60;
const MAX_WAIT_S: u64 = 600;
/// How long the memory may take to hear of a commit.
const NEWER: Duration = Duration::from_secs(2);

/// A spec with its content.
pub(super) struct CurrentSpec {
    pub(super) generation: Generation,
    pub(super) spec_hash: SpecHash,
    pub(super) spec: Value,
}

impl Desk {
    /// Registers a compute or changes its registration, with a spec if there is one. Idempotent.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn register(
        &self,
        caller: Asker,
        id: ComputeId,
        body: RegisterCompute,
    ) -> Result<ComputeView, ServiceError> {
        let leading = self.leading()?;
        self.write_registration(&leading, caller, &id, body).await?;
        leading.waker.wake_now(id.clone());
        self.entry(&leading, &id).map(|entry| view(&leading, &entry))
    }

    /// Stores a new spec; the engine does the rest. The same content keeps its generation.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn put_spec(
        &self,
        caller: Asker,
        id: ComputeId,
        spec: Value,
        if_match: Option<Generation>,
    ) -> Result<SpecAccepted, ServiceError> {
        let leading = self.leading()?;
        let (spec, ignored_fields) = read_spec(spec, "")?;
        let spec_hash = spec.hash.clone();
        let change = Change::PutSpec { compute_id: id.clone(), spec, if_match };
        let committed = self.write(&leading, caller, &id, change).await?;
        if committed.changed {
            leading.waker.wake_now(id);
        }
        Ok(SpecAccepted { generation: committed.generation, spec_hash, ignored_fields })
    }

    /// Intent beside observation.
    ///
    /// # Errors
    /// Unknown compute, or this member does not lead.
    pub fn get(&self, id: &ComputeId) -> Result<ComputeView, ServiceError> {
        let leading = self.leading()?;
        self.entry(&leading, id).map(|entry| view(&leading, &entry))
    }

    /// The current spec.
    ///
    /// # Errors
    /// Unknown compute, no spec, the database does not answer, or this member does not lead.
    pub async fn get_spec(&self, id: &ComputeId) -> Result<SpecView, ServiceError> {
        let leading = self.leading()?;
        let found = self.spec_in_memory(&leading, id).await?;
        let CurrentSpec { generation, spec_hash, spec } = found.ok_or_else(|| ServiceError::NoSpec(id.clone()))?;
        Ok(SpecView { generation, spec_hash, spec })
    }

    /// The spec that the memory names, with its content; `None` if there is none. What the database has beyond the memory is
    /// not shown: a later read must not go back behind it.
    pub(super) async fn spec_in_memory(
        &self,
        leading: &Leading,
        id: &ComputeId,
    ) -> Result<Option<CurrentSpec>, ServiceError> {
        let since = Instant::now();
        loop {
            let entry = self.entry(leading, id)?;
            let Some(spec_hash) = entry.record.spec_hash.clone() else { return Ok(None) };
            let text = self.database.spec_text(id, &spec_hash).await.map_err(|error| self.read_failed(error))?;
            if let Some(text) = text {
                let no_json = |error| ServiceError::DatabaseAway { msg: format!("a spec cannot be read: {error}") };
                let spec = text.value().map_err(no_json)?;
                return Ok(Some(CurrentSpec { generation: entry.record.generation, spec_hash, spec }));
            }
            // A newer one was committed this moment, and the memory hears of it next.
            if since.elapsed() > NEWER {
                return Err(ServiceError::DatabaseAway { msg: "the memory does not agree with it".to_owned() });
            }
            self.leading()?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// One page of computes.
    ///
    /// # Errors
    /// A filter that does not parse, or this member does not lead.
    pub async fn list(&self, query: ListQuery) -> Result<ComputeList, ServiceError> {
        let leading = self.leading()?;
        let limit = query.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(rule("limit", "limit is 1 to 1000"));
        }
        let label = match query.label {
            Some(text) => {
                let (key, value) = text.split_once('=').ok_or_else(|| rule("label", "label looks like key=value"))?;
                Some((key.to_owned(), value.to_owned()))
            }
            None => None,
        };
        let filter = Filter { state: query.state, label, lagging: query.lagging };
        let (page, more) = look_up(&leading.snapshot, &filter, query.cursor, limit as usize).await;
        let next_cursor = page.last().filter(|_| more).map(|entry| entry.record.compute_id.clone());
        Ok(ComputeList { computes: page.iter().map(|entry| view(&leading, entry)).collect(), next_cursor })
    }

    /// Waits until a generation is settled at the agent, or time is up, or this member stops leading.
    ///
    /// # Errors
    /// Unknown compute, no spec, or this member does not lead (any more): ask the next leader the same.
    pub async fn wait(&self, id: ComputeId, query: WaitQuery) -> Result<WaitResult, ServiceError> {
        let leading = self.leading()?;
        let timeout_s = query.timeout_s.unwrap_or(WAIT_S);
        if timeout_s > MAX_WAIT_S {
            return Err(rule("timeout_s", "timeout_s is 0 to 600"));
        }
        let mut changes = leading.snapshot.subscribe(&id).ok_or_else(|| ServiceError::UnknownCompute(id.clone()))?;
        let current = changes.borrow().record.generation;
        let generation = query.generation.unwrap_or(current);
        if generation < Generation(1) {
            return Err(ServiceError::NoSpec(id));
        }
        let outcome = |entry: &Entry| settled(&entry.intent(), generation, entry.observed.as_deref()?);
        let result = |outcome, entry: &Entry| WaitResult { outcome, generation, compute: view(&leading, entry) };
        tokio::select! {
            entry = changes.wait_for(|entry| outcome(entry).is_some()) => match entry {
                Ok(entry) => Ok(result(outcome(&entry).unwrap_or(WaitOutcome::Timeout), &entry)),
                Err(_) => Err(ServiceError::UnknownCompute(id)),
            },
            () = self.leadership.left(leading.term) => {
                let standing = self.leadership.standing();
                Err(ServiceError::WaitCutShort { role: standing.role, leader: standing.leader, generation })
            }
            () = tokio::time::sleep(Duration::from_secs(timeout_s)) => {
                self.entry(&leading, &id).map(|entry| result(WaitOutcome::Timeout, &entry))
            }
        }
    }

    /// Forgets a compute; what runs is left running.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn delete(&self, caller: Asker, id: ComputeId) -> Result<(), ServiceError> {
        let leading = self.leading()?;
        self.write(&leading, caller, &id, Change::Delete { compute_id: id.clone() }).await?;
        leading.quarantine.forget(&id);
        Ok(())
    }

    /// Changes how far the leader may go with a compute by itself. Idempotent.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn put_policy(
        &self,
        caller: Asker,
        id: ComputeId,
        policy: PutPolicy,
    ) -> Result<ComputeView, ServiceError> {
        let leading = self.leading()?;
        let change = Change::SetPolicy { compute_id: id.clone(), policy };
        if self.write(&leading, caller, &id, change).await?.changed {
            leading.waker.wake_now(id.clone());
        }
        self.entry(&leading, &id).map(|entry| view(&leading, &entry))
    }

    /// Ends the quarantine of a compute and has it looked at. One that is not quarantined is left as it is.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn unquarantine(&self, caller: Asker, id: ComputeId) -> Result<ComputeView, ServiceError> {
        let leading = self.leading()?;
        let entry = self.entry(&leading, &id)?;
        if leading.quarantine.holds(&id) {
            let Asker { actor, reason } = caller.clone();
            let detail = json!({"op": "unquarantine"});
            let action = Change::Journal(Action { compute_id: Some(id.clone()), actor, reason, detail });
            self.write(&leading, caller, &id, action).await?;
            if leading.quarantine.clear(&id) {
                tracing::info!(compute_id = %id, "the quarantine of a compute was ended by an operator");
                leading.waker.wake_now(id);
            }
        }
        Ok(view(&leading, &entry))
    }

    pub(super) fn entry(&self, leading: &Leading, id: &ComputeId) -> Result<Arc<Entry>, ServiceError> {
        leading.snapshot.get(id).ok_or_else(|| ServiceError::UnknownCompute(id.clone()))
    }

    pub(super) async fn write_registration(
        &self,
        leading: &Leading,
        caller: Asker,
        id: &ComputeId,
        body: RegisterCompute,
    ) -> Result<Committed, ServiceError> {
        check_registration(&body)?;
        let spec = body.spec.map(|spec| read_spec(spec, "spec.")).transpose()?.map(|(spec, _)| spec);
        let change = Change::Register { compute_id: id.clone(), agent_url: body.agent_url, labels: body.labels, spec };
        self.write(leading, caller, id, change).await
    }

    pub(super) async fn write(
        &self,
        leading: &Leading,
        caller: Asker,
        id: &ComputeId,
        change: Change,
    ) -> Result<Committed, ServiceError> {
        let begun = Instant::now();
        let outcome = leading.writer.submit_for(caller, change).await;
        self.metrics.took(Operation::Write, begun.elapsed());
        match outcome {
            Ok(committed) => {
                // It has a record if the compute itself was changed.
                if committed.changed && committed.record.is_some() {
                    leading.quarantine.changed(id);
                }
                Ok(committed)
            }
            Err(error) => {
                self.metrics.write_failed(&error);
                if error == WriteError::NotLeader {
                    self.leadership.fenced(leading.term).await;
                }
                Err(ServiceError::of_write(error, id, || self.not_leading()))
            }
        }
    }
}

/// A page, piece by piece, so that a rare thing in a large fleet keeps nobody waiting.
async fn look_up(
    snapshot: &Snapshot,
    filter: &Filter,
    mut after: Option<ComputeId>,
    limit: usize,
) -> (Vec<Arc<Entry>>, bool) {
    let mut found = Vec::new();
    loop {
        // One more than is wanted says whether there are more.
        let piece = snapshot.piece(filter, after.as_ref(), limit + 1 - found.len());
        found.extend(piece.entries);
        let more = found.len() > limit;
        if more || piece.next.is_none() {
            found.truncate(limit);
            return (found, more);
        }
        after = piece.next;
        tokio::task::yield_now().await;
    }
}

/// The entry as clients see it.
fn view(leading: &Leading, entry: &Entry) -> ComputeView {
    let mut view = entry.view();
    leading.quarantine.show(&mut view);
    leading.presence.show(&mut view);
    view
}

pub(super) fn rule(path: &str, msg: &str) -> ServiceError {
    ServiceError::Rule(SpecError { path: path.to_owned(), msg: msg.to_owned() })
}

/// Checks a spec and makes its hash, once. `prefix` stands before the paths of its fields.
pub(super) fn read_spec(spec: Value, prefix: &str) -> Result<(NewSpec, Vec<String>), ServiceError> {
    let parsed = parse(&spec)
        .map_err(|error| ServiceError::Rule(SpecError { path: format!("{prefix}{}", error.path), msg: error.msg }))?;
    let hash = spec_hash(&spec);
    Ok((NewSpec::new(&spec, hash), parsed.ignored_fields))
}
