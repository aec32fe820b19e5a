//! One pass over one compute: read both sides, plan, do the one step the plan names.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_clients::agent::AgentError;
use pgfleet_domain::policy::{Step, step};
use pgfleet_domain::reconcile::Plan;
use pgfleet_persistence::LeaderTerm;
use pgfleet_runtime::exit::chain;

use super::{Quarantine, ahead, end, suspend};
use crate::agents::{Agents, is_silence};
use crate::observe::{Call, Entry, Hints, Presence, Snapshot};

/// What a pass needs; shared by all passes of one leadership.
pub struct Bench {
    /// The proof of leadership.
    pub term: Arc<LeaderTerm>,
    /// Both sides of every compute.
    pub snapshot: Snapshot,
    /// The way to the agents.
    pub agents: Agents,
    /// Whether the lease is proved.
    pub may_act: MayAct,
    /// Computes that panicked.
    pub quarantine: Quarantine,
    /// Who answers.
    pub presence: Presence,
    /// Whom the prober asks sooner.
    pub hints: Hints,
}

/// Whether the lease is proved at this moment. The ledger refuses a stale push anyway; this spares it the sight of one.
pub type MayAct = Arc<dyn Fn() -> bool + Send + Sync>;

/// What comes after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until something changes.
    Rest,
    /// A spec was handed over: look again soon.
    Pushed,
    /// The agent works on it: look again soon.
    Waiting,
    /// Nothing but a look after this time.
    Later(Duration),
    /// It was ended because nobody used it.
    Suspended,
    /// It failed: look again after a back-off.
    Failed,
    /// Its agent did not answer: the prober asks it from now on, and wakes the engine with the first answer.
    Silent,
    /// A defect of ours: the same, with the compute as the database has it.
    Panicked,
}

/// Runs one pass. Cancelling it in the middle is safe: what an agent accepted is found by the next probe.
///
/// The try of a quarantined compute asks its agent at least for the status, for nobody else does.
pub(super) async fn run(bench: &Bench, id: &ComputeId, is_try: bool) -> Next {
    if !(bench.may_act)() || !bench.quarantine.refresh(id, &bench.snapshot).await {
        return Next::Failed;
    }
    let Some(entry) = bench.snapshot.get(id) else { return Next::Rest };
    let intent = entry.intent();
    tracing::Span::current().record("generation", intent.generation.get());
    match step(entry.record.policy, &intent, entry.observed.as_deref()) {
        Step::HandsOff | Step::Plan(Plan::Rest) if is_try => probe(bench, id, &entry).await,
        Step::HandsOff => Next::Rest,
        Step::Plan(Plan::Rest) => suspend::look(bench, id, &entry).await,
        Step::Plan(Plan::Probe) => probe(bench, id, &entry).await,
        // What is remembered of an agent may be old: it says so itself when it is pushed to, and that is the proof.
        Step::Plan(Plan::Push | Plan::AgentAhead(_)) => push(bench, id, &entry).await,
        Step::End { mode, generation, spec_hash } => end::end(bench, id, &entry, mode, (generation, spec_hash)).await,
        Step::Done(action) => end::done(bench, id, action).await,
    }
}

/// Whether a pass over it would call its agent.
pub(super) fn asks(entry: &Entry) -> bool {
    match step(entry.record.policy, &entry.intent(), entry.observed.as_deref()) {
        Step::Plan(Plan::Rest) => suspend::timeout(entry).is_some(),
        Step::Plan(Plan::Probe | Plan::Push | Plan::AgentAhead(_)) | Step::End { .. } => true,
        Step::HandsOff | Step::Done(_) => false,
    }
}

async fn probe(bench: &Bench, id: &ComputeId, entry: &Entry) -> Next {
    match bench.agents.probe(&entry.record.agent_url).await {
        Ok(probed) => {
            bench.presence.answered(entry, &probed.observed);
            bench.snapshot.observed(id, Call::Probe, probed.observed);
            Next::Waiting
        }
        Err(error) => failed(bench, id, entry, Call::Probe, &error),
    }
}

async fn push(bench: &Bench, id: &ComputeId, entry: &Entry) -> Next {
    let record = &entry.record;
    let Some(hash) = &record.spec_hash else { return Next::Rest };
    let spec = match bench.quarantine.spec_text(id, hash).await {
        Ok(Some(spec)) => spec,
        // There is a newer one: the memory is about to hear of it.
        Ok(None) => return Next::Waiting,
        Err(error) => {
            tracing::warn!(compute_id = %id, error = %chain(&error), "a spec cannot be read, so it is not pushed yet");
            return Next::Failed;
        }
    };
    let fence = bench.term.fence(id, record.generation, hash);
    let place = bench.agents.place_for_push(id).await;
    // The wait for a place may have been longer than the lease was proved for.
    if !(bench.may_act)() {
        return Next::Failed;
    }
    match bench.agents.push(place, &record.agent_url, fence, &spec).await {
        Ok(observed) => {
            bench.presence.answered(entry, &observed);
            bench.snapshot.observed(id, Call::Push, observed);
            tracing::info!(
                compute_id = %id,
                term = %bench.term.term(),
                generation = %record.generation,
                "spec handed to the agent"
            );
            Next::Pushed
        }
        Err(error) => match ahead::learn(bench, id, entry, &error).await {
            Some(next) => next,
            None => failed(bench, id, entry, Call::Push, &error),
        },
    }
}

pub(super) fn failed(bench: &Bench, id: &ComputeId, entry: &Entry, call: Call, error: &AgentError) -> Next {
    let why = error.to_string();
    if entry.trouble.as_ref().is_none_or(|known| *known.why != *why) {
        tracing::warn!(compute_id = %id, generation = %entry.record.generation, "{why}; tried again with back-off");
    }
    bench.snapshot.failed(id, call, &why, error.answered());
    match (call, is_silence(error)) {
        // An agent may answer for its status and yet take too long for a spec: the prober finds out.
        (Call::Push, Some(true)) if matches!(error, AgentError::Timeout { .. }) => {
            bench.hints.hint(id.clone());
            Next::Failed
        }
        (Call::Push | Call::Probe, Some(true)) => {
            bench.presence.unanswered(entry);
            bench.hints.unanswered(id.clone());
            Next::Silent
        }
        (Call::Push | Call::Probe, Some(false)) => {
            bench.presence.spoke(entry);
            Next::Failed
        }
        (Call::Push | Call::Probe, None) => Next::Failed,
    }
}
