//! Use case: an agent says that something has changed about it.

use pgfleet_api::ComputeId;
use pgfleet_api::agent::{ReportAccepted, TransitionReport};

use super::{Desk, ServiceError};

impl Desk {
    /// Takes a report as a hint: the agent is asked what it is, unless that is known already. What it says itself in answer
    /// to us is believed, and nothing else.
    ///
    /// # Errors
    /// Unknown compute, or this member does not lead.
    pub fn report(&self, id: ComputeId, report: &TransitionReport) -> Result<ReportAccepted, ServiceError> {
        let leading = self.leading()?;
        let entry = self.entry(&leading, &id)?;
        let known = entry
            .observed
            .as_ref()
            .is_some_and(|seen| seen.boot_id == report.boot_id && seen.status_seq >= report.status_seq);
        if !known {
            leading.hints.hint(id);
        }
        Ok(ReportAccepted { term: leading.term, known })
    }
}
