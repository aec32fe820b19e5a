//! Use case: one line of a bulk upsert.

use pgfleet_api::bulk::ApplyLine;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_persistence::{Asker, Change, Committed};

use super::compute::{read_spec, rule};
use super::{Desk, ServiceError};

impl Desk {
    /// Does what a line asks for: a registration with or without a spec, or a spec for a compute that is known.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn apply(&self, caller: Asker, line: ApplyLine) -> Result<Committed, ServiceError> {
        let ApplyLine { compute_id: id, agent_url, labels, spec, if_match } = line;
        let leading = self.leading()?;
        let committed = match (agent_url, spec) {
            (Some(_), _) if if_match.is_some() => {
                return Err(rule("if_match", "if_match goes with a spec alone, without agent_url"));
            }
            (Some(agent_url), spec) => {
                let body = RegisterCompute { agent_url, labels: labels.unwrap_or_default(), spec };
                self.write_registration(&leading, caller, &id, body).await?
            }
            (None, _) if labels.is_some() => {
                return Err(rule("labels", "labels belong to a registration: give agent_url as well"));
            }
            (None, Some(spec)) => {
                let (spec, _) = read_spec(spec, "spec.")?;
                self.write(&leading, caller, &id, Change::PutSpec { compute_id: id.clone(), spec, if_match }).await?
            }
            (None, None) => return Err(rule("spec", "a line has a spec, or an agent_url, or both")),
        };
        if committed.changed {
            leading.waker.wake_now(id);
        }
        Ok(committed)
    }
}
