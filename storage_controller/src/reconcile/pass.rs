//! One pass over one compute: read both sides, plan, do the one step the plan names.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_clients::agent::AgentError;
use pgfleet_domain::policy::{Step, step};
use pgfleet_domain::reconcile::Plan;
use pgfleet_persistence::LeaderTerm;

use super::{Quarantine, ahead, end, suspend};
use crate::agents::Agents;
use crate::observe::{Call, Entry, Snapshot};

/// What a pass needs; shared by all passes of one leadership.
pub(super) struct Bench {
    pub(super) term: Arc<LeaderTerm>,
    pub(super) snapshot: Snapshot,
    pub(super) agents: Agents,
    pub(super) may_act: MayAct,
    pub(super) quarantine: Quarantine,
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

async fn probe(bench: &Bench, id: &ComputeId, entry: &Entry) -> Next {
    match bench.agents.probe(&entry.record.agent_url).await {
        Ok(probed) => {
            bench.snapshot.observed(id, Call::Probe, probed.observed);
            Next::Waiting
        }
        Err(error) => failed(bench, id, entry, Call::Probe, &error),
    }
}

async fn push(bench: &Bench, id: &ComputeId, entry: &Entry) -> Next {
    let record = &entry.record;
    let (Some(spec), Some(hash)) = (&record.spec, &record.spec_hash) else { return Next::Rest };
    let fence = bench.term.fence(id, record.generation, hash);
    let place = bench.agents.place_for_push(id).await;
    // The wait for a place may have been longer than the lease was proved for.
    if !(bench.may_act)() {
        return Next::Failed;
    }
    match bench.agents.push(place, &record.agent_url, fence, spec).await {
        Ok(observed) => {
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
    bench.snapshot.refused(id, call, &why, error.answered());
    Next::Failed
}
