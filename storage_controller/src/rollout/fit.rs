//! Whether a compute may be touched by a roll-out, and what its patched spec is.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::policy::Mode;
use pgfleet_api::rollout::SpecPatch;
use pgfleet_domain::rollout::{Health, health, patch};
use pgfleet_domain::spec::{SpecError, spec_hash};
use pgfleet_persistence::{NewSpec, SpecRecord};

use crate::observe::Entry;

/// What a patch does to a compute.
pub(super) enum Fit {
    /// This is its new spec.
    Changes(NewSpec),
    /// It is so already.
    Unchanged,
    /// It must not be touched, for this reason.
    LeftOut(&'static str),
    /// A rule refuses its new spec.
    Refused(SpecError),
}

/// Looks at one compute and its current spec.
pub(super) fn fit(patch_: &SpecPatch, entry: &Entry, spec: Option<&SpecRecord>) -> Fit {
    if let Some(why) = held(entry) {
        return Fit::LeftOut(why);
    }
    let Some(SpecRecord { spec, .. }) = spec else { return Fit::LeftOut("it has no spec") };
    match patch::apply(patch_, spec) {
        Ok(patched) if patched == *spec => Fit::Unchanged,
        Ok(patched) => {
            let hash = spec_hash(&patched);
            Fit::Changes(NewSpec::new(&patched, hash))
        }
        Err(error) => Fit::Refused(error),
    }
}

/// Why an operator keeps hands off it, if somebody does.
pub(super) fn held(entry: &Entry) -> Option<&'static str> {
    let record = &entry.record;
    match record.policy.mode {
        Mode::Pause => Some("it is paused by its policy"),
        Mode::Stop => Some("it is stopped by its policy"),
        // A new generation would take the action's place.
        Mode::Active => record.policy.wanted(record.generation).map(|_| "an operator's action is under way"),
    }
}

/// Why nothing could be learnt from touching it now, if that is so: it would count as failed without the patch's fault.
pub(super) fn unwell(entry: &Entry) -> Option<&'static str> {
    let observed = entry.observed.as_deref();
    match health(&entry.intent(), entry.record.generation, observed) {
        Health::Healthy => None,
        Health::Ill | Health::Failed => Some(match observed.map(|seen| seen.state) {
            None => "its agent was never reached",
            Some(ComputeState::Running) => "it has not applied its current spec",
            Some(ComputeState::Terminated) => "it is terminated",
            Some(_) => "it does not run",
        }),
    }
}
