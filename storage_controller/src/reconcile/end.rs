//! The step that ends a compute because its operator wants that: by the policy `stop`, or by an action that is pending.
//!
//! The agent judges the fence: one of a leadership that has ended is refused. Ending twice is ending once, so a pass that is
//! cut in the middle is simply made again by the next leader.

use pgfleet_api::agent::TerminateMode;
use pgfleet_api::policy::PendingAction;
use pgfleet_api::{ComputeId, ErrorCode, Generation, SpecHash};
use pgfleet_clients::agent::AgentError;
use pgfleet_persistence::{Asker, Change};
use serde_json::json;

use super::ahead;
use super::pass::{Bench, Next, failed};
use super::quarantine::ACTOR;
use crate::observe::{Call, Entry};

/// Ends it under the fence of what its agent holds.
pub(super) async fn end(
    bench: &Bench,
    id: &ComputeId,
    entry: &Entry,
    mode: TerminateMode,
    (generation, spec_hash): (Generation, SpecHash),
) -> Next {
    if !(bench.may_act)() {
        return Next::Failed;
    }
    let record = &entry.record;
    let fence = bench.term.fence(id, generation, &spec_hash);
    match bench.agents.terminate(&record.agent_url, fence, mode).await {
        Ok(()) => {
            tracing::info!(compute_id = %id, term = %bench.term.term(), %generation, "compute ended as its operator asked");
            let pending = record.policy.wanted(record.generation);
            if pending.is_none() {
                bench.quarantine.journal(id, json!({"op": "stop", "agent_generation": generation})).await;
            }
            // The agent stays for a while so that its end can be seen. One that is gone already has said it by its answer.
            match bench.agents.probe(&record.agent_url).await {
                Ok(probed) => drop(bench.snapshot.observed(id, Call::Push, probed.observed)),
                Err(_) => bench.snapshot.ended(id),
            }
            match pending {
                Some(action) => done(bench, id, action).await,
                None => Next::Waiting,
            }
        }
        // The fence is what was last seen of the agent. One that the database has passed as well tells of an old look, and
        // nothing of lost commits.
        Err(error) if generation != record.generation && is_of_an_old_look(&error) => {
            look_again(bench, id, entry).await
        }
        Err(error) => match ahead::learn(bench, id, entry, &error).await {
            Some(next) => next,
            None => failed(bench, id, entry, Call::Push, &error),
        },
    }
}

fn is_of_an_old_look(error: &AgentError) -> bool {
    let code = error.refusal().map(|body| body.code);
    matches!(code, Some(ErrorCode::StaleGeneration | ErrorCode::FenceConflict))
}

async fn look_again(bench: &Bench, id: &ComputeId, entry: &Entry) -> Next {
    match bench.agents.probe(&entry.record.agent_url).await {
        Ok(probed) => {
            bench.snapshot.observed(id, Call::Push, probed.observed);
            Next::Waiting
        }
        Err(error) => failed(bench, id, entry, Call::Probe, &error),
    }
}

/// Writes down that a pending action is done.
pub(super) async fn done(bench: &Bench, id: &ComputeId, action: PendingAction) -> Next {
    let asker = Asker { actor: ACTOR.to_owned(), reason: None };
    let change = Change::Acted { compute_id: id.clone(), generation: action.generation };
    match bench.quarantine.write(asker, change).await {
        Ok(_) => Next::Waiting,
        Err(error) => {
            tracing::warn!(compute_id = %id, %error, "an action is done and not written down as such yet; tried again");
            Next::Failed
        }
    }
}
