//! An agent that refuses because it has what the database lacks: a later term, a later generation, another content.
//!
//! The agent judges cluster, compute and term before it speaks of a generation, so its refusal is the proof; what is only
//! remembered of it proves nothing. Called by the passes. It calls `domain` to judge, the writer to lift a generation, and
//! the chair through [`Tell`].

use std::sync::Arc;

use pgfleet_api::{ComputeId, ErrorCode, FenceMark, Generation, SpecHash, Term};
use pgfleet_clients::agent::AgentError;
use pgfleet_domain::leadership::{Jump, jump};
use pgfleet_domain::loss::What;
use pgfleet_domain::reconcile::MAX_GENERATION_JUMP;
use pgfleet_persistence::{Asker, Change};

use super::pass::{Bench, Next};
use super::quarantine::ACTOR;
use crate::observe::{Call, Entry};

/// What the engine hears from agents and others have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An agent refuses the term `own` because it has seen a later one.
    Outbid {
        /// The term that was refused.
        own: Term,
        /// The highest that the agent has seen.
        seen: Term,
    },
    /// A compute's generation was lifted above its agent's.
    Lifted(What),
}

/// Tells them.
pub type Tell = Arc<dyn Fn(Heard) + Send + Sync>;

/// Learns from a refusal. `None`: it says nothing of lost commits.
pub(super) async fn learn(bench: &Bench, id: &ComputeId, entry: &Entry, error: &AgentError) -> Option<Next> {
    let (code, highest) = (error.refusal()?.code, error.highest()?);
    let what = match code {
        ErrorCode::StaleTerm => return outbid(bench, id, highest.term).await,
        ErrorCode::StaleGeneration => What::AgentGeneration,
        ErrorCode::FenceConflict => What::AgentContent,
        _ => return None,
    };
    lift(bench, id, entry, what, highest).await
}

async fn outbid(bench: &Bench, id: &ComputeId, seen: Term) -> Option<Next> {
    let own = bench.term.term();
    match jump(own, seen) {
        Jump::None => {}
        Jump::Claimed => {
            tracing::warn!(compute_id = %id, term = %own, agent_term = %seen, "an agent has seen a later leadership");
            bench.quarantine.tell(Heard::Outbid { own, seen });
        }
        Jump::TooFar => bar(bench, id, &format!("its agent has seen term {seen}, and this is term {own}")).await,
    }
    None
}

async fn bar(bench: &Bench, id: &ComputeId, why: &str) {
    let said = format!("{why}: too far above to be a lost commit; look at the agent's ledger, then change the compute");
    bench.quarantine.bar(id, &said).await;
}

/// The database's content goes to the agent under a generation that is above both.
async fn lift(bench: &Bench, id: &ComputeId, entry: &Entry, what: What, highest: FenceMark) -> Option<Next> {
    let (seen, above) = (entry.record.generation, highest.generation);
    // The refusal does not name the content; the journal shall.
    let mut agent_hash = None;
    if let Ok(probed) = bench.agents.probe(&entry.record.agent_url).await {
        agent_hash = probed.observed.spec_hash.clone().filter(|_| probed.observed.generation == Some(above));
        bench.snapshot.observed(id, Call::Probe, probed.observed);
    }
    if above.get().saturating_sub(seen.get()) > MAX_GENERATION_JUMP {
        bar(bench, id, &format!("its agent has generation {above}, and the database has {seen}")).await;
        return None;
    }
    lift_above(bench, id, seen, above, agent_hash, what).await
}

async fn lift_above(
    bench: &Bench,
    id: &ComputeId,
    seen: Generation,
    above: Generation,
    agent_hash: Option<SpecHash>,
    what: What,
) -> Option<Next> {
    let asker = Asker { actor: ACTOR.to_owned(), reason: Some("lost_commit".to_owned()) };
    let change = Change::Lift { compute_id: id.clone(), seen, above, agent_hash };
    match bench.quarantine.write(asker, change).await {
        Ok(committed) if committed.changed => {
            tracing::error!(
                compute_id = %id,
                agent_generation = %above,
                database_generation = %seen,
                generation = %committed.generation,
                "the database has lost commits: the agent has a spec that it lacks; the database's content is pushed over it. \
                 Put the lost spec again if it was promised to somebody"
            );
            bench.quarantine.tell(Heard::Lifted(what));
            Some(Next::Waiting)
        }
        // Something newer was asked for meanwhile: whoever wrote it has woken us.
        Ok(_) => Some(Next::Waiting),
        Err(error) => {
            tracing::warn!(compute_id = %id, %error, "a generation that the database lost is not passed over yet");
            None
        }
    }
}
