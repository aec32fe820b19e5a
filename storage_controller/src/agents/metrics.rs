//! What the post counts.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, Histogram, LabelGroup, MetricGroup};

/// How a call to an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Refused because a newer leader or generation is known.
    Stale,
    /// Refused for another reason.
    Refused,
    /// Our token was not accepted.
    Unauthorized,
    /// No connection.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// No usable answer.
    Garbled,
}

#[derive(LabelGroup)]
#[label(set = OutcomeSet)]
struct ByOutcome {
    outcome: Outcome,
}

/// Calls to agents.
#[derive(MetricGroup)]
#[metric(new())]
pub struct AgentMetrics {
    /// Specs sent to agents, by outcome.
    pushes_total: CounterVec<OutcomeSet>,
    /// Time from sending a spec to the agent's durable acceptance.
    #[metric(metadata = Thresholds::exponential_buckets(0.001, 2.5))]
    push_duration_seconds: Histogram<12>,
    /// Status requests to agents, by outcome.
    probes_total: CounterVec<OutcomeSet>,
}

impl AgentMetrics {
    /// A push ended.
    pub fn pushed(&self, outcome: Outcome, took: Duration) {
        self.pushes_total.inc(ByOutcome { outcome });
        self.push_duration_seconds.get_metric().observe(took.as_secs_f64());
    }

    /// A probe ended.
    pub fn probed(&self, outcome: Outcome) {
        self.probes_total.inc(ByOutcome { outcome });
    }
}
