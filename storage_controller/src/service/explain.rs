//! Use case: why a compute is as it is, and what happens next.

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgfleet_api::ComputeId;
use pgfleet_api::explain::{ExplainView, NextStep};
use pgfleet_domain::explain::{Facts, Held, Trouble, explain};

use super::{Desk, ServiceError};

impl Desk {
    /// Explains a compute from what the leader knows at this moment; nobody is asked.
    ///
    /// # Errors
    /// Unknown compute, or this member does not lead.
    pub fn explain(&self, id: &ComputeId) -> Result<ExplainView, ServiceError> {
        let leading = self.leading()?;
        let entry = self.entry(&leading, id)?;
        let mut view = entry.view();
        leading.quarantine.show(&mut view);
        let (intent, now) = (entry.intent(), Utc::now());
        let held = view.quarantine.as_ref().map(|held| Held {
            why: &held.reason,
            lasts: between(held.since, now),
            left: between(now, held.next_try_at),
        });
        let trouble = entry.trouble.as_ref().map(|trouble| Trouble {
            why: &trouble.why,
            refused: trouble.refused,
            lasts: trouble.since.elapsed(),
        });
        let explained = explain(&Facts {
            policy: entry.record.policy,
            intent: &intent,
            observed: entry.observed.as_deref(),
            trouble,
            held,
            doing: leading.outlook.of(id).or_else(|| leading.presence.doing(id)),
            lease_proved: self.leadership.may_act(),
        });
        let next = explained.next.map(|(says, left)| NextStep {
            says,
            at: left.map(|left| now + distance(left)),
            in_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        });
        Ok(ExplainView {
            compute_id: id.clone(),
            converged: explained.converged,
            code: explained.code,
            says: explained.says,
            since: explained.lasts.map(|lasts| now - distance(lasts)),
            next,
            advice: explained.advice.map(|advice| advice.replace(" ID", &format!(" {id}"))),
            notes: explained.notes,
            generation: view.generation,
            applied_generation: view.applied_generation,
        })
    }
}

fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

fn distance(time: Duration) -> chrono::Duration {
    chrono::Duration::from_std(time).unwrap_or_default()
}
