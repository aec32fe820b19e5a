//! What a live cluster remembers, as a history: terms, journals, computes and members.
//!
//! Journals are read before the leader history, so that no term is journalled and not told, and before the computes, so
//! that no generation is. One request after the other: it is a look, not load.

use std::collections::BTreeSet;

use pgfleet_api::bulk::WatchEvent;
use pgfleet_api::compute::{ComputeView, ListQuery};
use pgfleet_api::{ClusterId, Generation, SpecHash};
use pgfleet_clients::controller::{ControllerClient, ControllerError};
use pgfleet_history::{Entry, Event};
use serde_json::Value;

use crate::exit::CliError;

/// The most terms that the API gives at once.
const TERMS: u32 = 1000;

/// What was learnt.
pub struct Look {
    pub entries: Vec<Entry>,
    /// What was not, in words.
    pub missing: Vec<String>,
    /// Which cluster.
    pub source: String,
}

/// Asks a cluster for everything that the checks can use. A member that does not answer is noted; the leader has to.
pub async fn look(client: &ControllerClient) -> Result<Look, CliError> {
    let mut missing = Vec::new();
    let known = client.list_all(&ListQuery { limit: Some(1000), ..ListQuery::default() }).await?;
    let mut lines = journals(client, &known).await?;
    let members = members(client, &mut missing).await?;
    let leader = client.leader().await?;
    let mut terms = client.leader_history(TERMS).await?.terms;
    terms.reverse();
    if let Some(first) = terms.first().filter(|_| terms.len() == TERMS as usize) {
        let before = lines.len();
        lines.retain(|line| line.term >= first.term);
        let (dropped, first) = (before - lines.len(), first.term);
        missing.push(format!("terms before {first}, and {dropped} journal lines of them: the API gives {TERMS} terms"));
    }
    let computes = client.list_all(&ListQuery { limit: Some(1000), ..ListQuery::default() }).await?;
    lagging(&computes, &mut missing);
    missing.push("journal lines about the whole fleet and about deleted computes".to_owned());

    let mut events = vec![Event::Begun { seed: None, cluster_id: Some(leader.cluster_id) }];
    events.extend(terms.into_iter().map(|term| Event::TermSeen {
        term: term.term,
        instance_id: term.instance_id,
        began: term.began,
        ended: term.ended,
    }));
    // The row itself, which has to agree with the history. Its term is the last one, or the history was read later.
    events.push(told_by_the_row(&leader));
    events.extend(members);
    events.extend(lines.into_iter().map(journalled));
    events.extend(computes.into_iter().flat_map(shown));
    let entries = events.into_iter().map(|event| Entry { at_us: 0, event }).collect();
    Ok(Look { entries, missing, source: source(leader.cluster_id) })
}

fn source(cluster_id: ClusterId) -> String {
    format!("cluster {cluster_id}")
}

fn told_by_the_row(leader: &pgfleet_api::controller::LeaderView) -> Event {
    let ended = leader.released_at.map(|_| "released".to_owned());
    Event::TermSeen { term: leader.term, instance_id: leader.instance_id, began: String::new(), ended }
}

/// Every line about these computes, in the order of the changes.
async fn journals(client: &ControllerClient, computes: &[ComputeView]) -> Result<Vec<WatchEvent>, CliError> {
    let mut lines = Vec::new();
    for compute in computes {
        match client.history_all(&compute.compute_id).await {
            Ok(found) => lines.extend(found),
            // Deleted a moment ago.
            Err(ControllerError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    lines.sort_by_key(|line| line.change_seq);
    Ok(lines)
}

/// What each member says it is.
async fn members(client: &ControllerClient, missing: &mut Vec<String>) -> Result<Vec<Event>, CliError> {
    let listed = client.controllers().await?.controllers.into_iter().map(|member| member.address);
    let addresses: BTreeSet<String> = client
        .endpoints()
        .iter()
        .cloned()
        .chain(listed)
        .map(|address| address.trim_end_matches('/').to_owned())
        .collect();
    let mut seen = Vec::new();
    for address in addresses {
        match client.status(&address).await {
            Ok(status) => {
                seen.push(Event::MemberSeen { instance_id: status.instance_id, role: status.role, term: status.term })
            }
            Err(error) => missing.push(format!("the member at {address}: {error}")),
        }
    }
    Ok(seen)
}

fn lagging(computes: &[ComputeView], missing: &mut Vec<String>) {
    let behind = computes.iter().filter(|one| one.lag > 0).count();
    if behind > 0 {
        missing.push(format!("{behind} of {} computes do not have their last spec in effect yet", computes.len()));
    }
}

/// Who the journal names for what a controller notes by itself, and the word for a generation that the database lost.
const ITSELF: &str = "controller";
const LOST_COMMIT: &str = "lost_commit";

fn journalled(line: WatchEvent) -> Event {
    let detail = &line.detail;
    let lost_commit = line.actor == ITSELF && line.reason.as_deref() == Some(LOST_COMMIT);
    Event::Journalled {
        change_seq: line.change_seq,
        term: line.term,
        lost_commit,
        generation: detail.get("generation").and_then(Value::as_i64).map(Generation),
        spec_hash: detail.get("spec_hash").and_then(Value::as_str).and_then(|text| text.parse::<SpecHash>().ok()),
        kind: line.kind,
        compute_id: line.compute_id,
    }
}

/// What was asked of a compute and what its agent said.
fn shown(compute: ComputeView) -> Vec<Event> {
    let mut events = Vec::new();
    let rejected = compute.observed.as_ref().and_then(|seen| seen.rejected_generation) == Some(compute.generation);
    if let Some(spec_hash) = compute.spec_hash {
        events.push(Event::Final {
            compute_id: compute.compute_id.clone(),
            generation: compute.generation,
            spec_hash,
            applied_generation: compute.applied_generation,
            rejected,
        });
    }
    events.extend(compute.observed.map(|seen| Event::AgentSeen {
        compute_id: compute.compute_id,
        boot_id: seen.boot_id,
        status_seq: seen.status_seq,
        state: seen.state,
        term: seen.term,
        generation: seen.generation,
        applied_generation: seen.applied_generation,
        rejected_generation: seen.rejected_generation,
        spec_hash: seen.spec_hash,
    }));
    events
}
