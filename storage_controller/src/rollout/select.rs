//! Which computes a roll-out is about, and in which order.

use std::collections::BTreeMap;

use pgfleet_api::ComputeId;
use pgfleet_api::rollout::{RolloutCompute, RolloutPreview, Selector, StartRollout, TargetPhase};
use pgfleet_domain::rollout::{Plan, patch};
use pgfleet_domain::spec::SpecError;
use pgfleet_persistence::{Database, NewTarget};

use super::RolloutError;
use super::fit::{Fit, fit, unwell};
use crate::observe::{Filter, Snapshot};

/// Computes that are looked at in one go; others get their turn in between.
const PAGE: usize = 128;

/// The computes of a request, in the order in which they are touched.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) plan: Plan,
    pub(super) targets: Vec<NewTarget>,
}

impl Selection {
    /// Refuses one in which a compute's new spec would be refused.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        let mut refused = self.targets.iter().filter(|target| target.phase == TargetPhase::Refused);
        let Some(first) = refused.next() else { return Ok(()) };
        let why = first.error.as_deref().unwrap_or("a rule refuses it");
        let more = match refused.count() {
            0 => String::new(),
            count => format!("; {count} more are refused as well"),
        };
        Err(rule("patch", format!("it does not fit compute {}: {why}{more}", first.compute_id)))
    }

    pub(super) fn preview(self) -> RolloutPreview {
        let plan = self.plan;
        let compute = |(target, ordinal): (NewTarget, u32)| RolloutCompute {
            compute_id: target.compute_id,
            ordinal,
            wave: plan.wave_of(ordinal),
            phase: target.phase,
            previous_generation: None,
            generation: None,
            restored_generation: None,
            error: target.error,
        };
        RolloutPreview { plan: plan.view(), computes: self.targets.into_iter().zip(0..).map(compute).collect() }
    }
}

fn rule(path: &str, msg: impl Into<String>) -> SpecError {
    SpecError { path: path.to_owned(), msg: msg.into() }
}

fn check_selector(selector: &Selector) -> Result<(), SpecError> {
    match (selector.all, selector.labels.is_empty()) {
        (false, false) | (true, true) => Ok(()),
        (true, false) => Err(rule("selector", "all goes without labels")),
        (false, true) => Err(rule("selector.labels", "without labels it is every compute: say all if that is meant")),
    }
}

/// Selects, looks at each with the patch, and orders: those that are well first, so that the canary proves something; then
/// those that are not; then those that are left out.
pub(super) async fn select(
    snapshot: &Snapshot,
    database: &Database,
    request: &StartRollout,
) -> Result<Selection, RolloutError> {
    check_selector(&request.selector)?;
    patch::check(&request.patch)?;
    let (mut well, mut ill, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let mut cursor: Option<ComputeId> = None;
    loop {
        let (page, more) = snapshot.page(&Filter::default(), cursor.as_ref(), PAGE);
        let has = |labels: &BTreeMap<String, String>| {
            request.selector.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let chosen: Vec<_> = page.iter().filter(|entry| has(&entry.record.labels)).collect();
        let ids: Vec<ComputeId> = chosen.iter().map(|entry| entry.record.compute_id.clone()).collect();
        let specs = if ids.is_empty() { BTreeMap::new() } else { database.specs_of(&ids).await? };
        for entry in chosen {
            let (phase, error, to) = match fit(&request.patch, entry, specs.get(&entry.record.compute_id)) {
                Fit::Changes(_) => match unwell(entry) {
                    None => (TargetPhase::Waiting, None, &mut well),
                    Some(why) => (TargetPhase::Waiting, Some(why.to_owned()), &mut ill),
                },
                Fit::Unchanged => (TargetPhase::Unchanged, None, &mut out),
                Fit::LeftOut(why) => (TargetPhase::Skipped, Some(why.to_owned()), &mut out),
                Fit::Refused(error) => (TargetPhase::Refused, Some(error.to_string()), &mut out),
            };
            to.push(NewTarget { compute_id: entry.record.compute_id.clone(), phase, error });
        }
        cursor = page.last().filter(|_| more).map(|entry| entry.record.compute_id.clone());
        if cursor.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    if well.is_empty() && ill.is_empty() && out.is_empty() {
        return Err(rule("selector", "no compute has these labels").into());
    }
    let computes = u32::try_from(well.len() + ill.len()).unwrap_or(u32::MAX);
    let plan = Plan::new(&request.strategy, computes)?;
    well.append(&mut ill);
    well.append(&mut out);
    Ok(Selection { plan, targets: well })
}
