//! Use case: what one line of a bulk upsert would come to. Nothing is written and nothing is pushed.
//!
//! The rules are those of [`Desk::apply`]; what they let through is compared with the memory, and only a spec with new
//! content is shown to its agent.

use pgfleet_api::bulk::ApplyLine;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::plan::{DryVerdict, PlanResponse};
use pgfleet_runtime::exit::chain;

use super::compute::{read_spec, rule};
use super::rules::check_registration;
use super::{Desk, ServiceError};

/// What a line would come to.
#[derive(Debug)]
pub struct Foreseen {
    /// The whole.
    pub verdict: DryVerdict,
    /// What the agent says.
    pub plan: Option<PlanResponse>,
    /// Why the agent says nothing.
    pub unknown: Option<String>,
}

impl Foreseen {
    const fn of(verdict: DryVerdict) -> Self {
        Self { verdict, plan: None, unknown: None }
    }
}

impl Desk {
    /// Says what [`Desk::apply`] would come to.
    ///
    /// # Errors
    /// The line would be refused, or this member does not lead.
    pub async fn foresee(&self, line: ApplyLine) -> Result<Foreseen, ServiceError> {
        let ApplyLine { compute_id: id, agent_url, labels, spec, if_match } = line;
        let leading = self.leading()?;
        if agent_url.is_some() && if_match.is_some() {
            return Err(rule("if_match", "if_match goes with a spec alone, without agent_url"));
        }
        if agent_url.is_none() && labels.is_some() {
            return Err(rule("labels", "labels belong to a registration: give agent_url as well"));
        }
        if agent_url.is_none() && spec.is_none() {
            return Err(rule("spec", "a line has a spec, or an agent_url, or both"));
        }
        if let Some(url) = &agent_url {
            let labels = labels.unwrap_or_default();
            check_registration(&RegisterCompute { agent_url: url.clone(), labels, spec: None })?;
        }
        let spec = spec.map(|spec| read_spec(spec, "spec.")).transpose()?.map(|(spec, _)| spec);
        let Some(entry) = leading.snapshot.get(&id) else {
            return if agent_url.is_some() {
                Ok(Foreseen::of(DryVerdict::Create))
            } else {
                Err(ServiceError::UnknownCompute(id))
            };
        };
        let record = &entry.record;
        if let Some(expected) = if_match
            && expected != record.generation
        {
            let (generation, spec_hash) = (record.generation, record.spec_hash.clone());
            return Err(ServiceError::PreconditionFailed { compute_id: id, generation, spec_hash });
        }
        let Some(spec) = spec.filter(|spec| record.spec_hash.as_ref() != Some(&spec.hash)) else {
            // The same content keeps its generation, and nothing is pushed again.
            return Ok(Foreseen::of(DryVerdict::NoOp));
        };
        let url = agent_url.as_ref().unwrap_or(&record.agent_url);
        Ok(match leading.preview.plan(url, &spec.spec).await {
            Ok(plan) => Foreseen { plan: Some(plan.clone()), ..Foreseen::of(plan.verdict.into()) },
            Err(error) => Foreseen { unknown: Some(chain(&error)), ..Foreseen::of(DryVerdict::Unknown) },
        })
    }
}
