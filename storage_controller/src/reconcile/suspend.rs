//! The step that ends a compute which nobody uses, where its policy wants that. Everything it needs is in hand when the
//! compute rests; the agent judges once more, at that moment, whether it is idle, and refuses if it is not.

use std::time::Duration;

use pgfleet_api::policy::Mode;
use pgfleet_api::{ComputeId, ErrorCode};
use pgfleet_domain::reconcile::{Intent, Plan, plan};
use pgfleet_domain::suspend::{self, Step};
use serde_json::json;

use super::ahead;
use super::metrics::Suspension;
use super::pass::{Bench, Next, failed};
use crate::observe::{Call, Entry};

/// How long a compute may be idle, if it may be suspended at all and runs as far as is known.
pub(super) fn timeout(entry: &Entry) -> Option<Duration> {
    let runs = entry.observed.as_ref().is_some_and(|seen| seen.state == pgfleet_api::agent::ComputeState::Running);
    let active = entry.record.policy.mode == Mode::Active;
    suspend::timeout(entry.record.policy, entry.record.suspend_timeout_s).filter(|_| runs && active)
}

/// Looks at a compute that nothing else is to be done about.
pub(super) async fn look(bench: &Bench, id: &ComputeId, entry: &Entry) -> Next {
    let Some(timeout) = timeout(entry) else { return Next::Rest };
    let record = &entry.record;
    let probed = match bench.agents.probe(&record.agent_url).await {
        Ok(probed) => probed,
        Err(error) => {
            // Whoever cannot be reached is not suspended. The prober goes on asking and wakes us when it is back.
            return match failed(bench, id, entry, Call::Probe, &error) {
                Next::Silent => Next::Silent,
                _ => Next::Rest,
            };
        }
    };
    let intent = Intent { generation: record.generation, spec_hash: record.spec_hash.clone() };
    let rests = plan(&intent, Some(&probed.observed)) == Plan::Rest;
    let step = suspend::decide(timeout, probed.observed.state, probed.activity.as_ref());
    bench.presence.answered(entry, &probed.observed);
    bench.snapshot.observed(id, Call::Probe, probed.observed);
    match step {
        _ if !rests => Next::Waiting,
        Step::Leave => Next::Rest,
        Step::LookIn(pause) => Next::Later(pause),
        Step::Suspend { idle } => end(bench, id, entry, timeout, idle).await,
    }
}

async fn end(bench: &Bench, id: &ComputeId, entry: &Entry, timeout: Duration, idle: Duration) -> Next {
    let (record, metrics) = (&entry.record, bench.quarantine.metrics());
    let Some(hash) = &record.spec_hash else { return Next::Rest };
    if !(bench.may_act)() {
        return Next::Failed;
    }
    let fence = bench.term.fence(id, record.generation, hash);
    match bench.agents.suspend(&record.agent_url, fence, timeout).await {
        Ok(()) => {
            metrics.suspended(Suspension::Done);
            let (idle_ms, timeout_s) = (idle.as_millis(), timeout.as_secs());
            tracing::info!(compute_id = %id, idle_ms, timeout_s, "compute suspended: it was idle for long enough");
            bench.quarantine.journal(id, json!({"op": "suspend", "idle_ms": idle_ms, "timeout_s": timeout_s})).await;
            // Its agent stays for a while so that this can be seen.
            if let Ok(probed) = bench.agents.probe(&record.agent_url).await {
                bench.snapshot.observed(id, Call::Probe, probed.observed);
            }
            Next::Suspended
        }
        Err(error) if error.refusal().is_some_and(|body| body.code == ErrorCode::NotIdle) => {
            metrics.suspended(Suspension::NotIdle);
            tracing::debug!(compute_id = %id, "{error}");
            Next::Later(timeout.min(Duration::from_secs(3600)))
        }
        Err(error) => {
            metrics.suspended(Suspension::Failed);
            match ahead::learn(bench, id, entry, &error).await {
                Some(next) => next,
                None => failed(bench, id, entry, Call::Probe, &error),
            }
        }
    }
}
