//! What the room of roll-outs counts.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use measured::{CounterVec, FixedCardinalityLabel, GaugeVec, LabelGroup, MetricGroup};
use pgfleet_api::rollout::{RolloutPhase, TargetPhase};

/// A phase in which a roll-out may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Phase {
    Pending,
    Canary,
    Soaking,
    Waving,
    Paused,
    Halted,
    RollingBack,
}

impl Phase {
    const ALL: [Self; 7] =
        [Self::Pending, Self::Canary, Self::Soaking, Self::Waving, Self::Paused, Self::Halted, Self::RollingBack];

    const fn of(phase: RolloutPhase) -> Option<Self> {
        match phase {
            RolloutPhase::Pending => Some(Self::Pending),
            RolloutPhase::Canary => Some(Self::Canary),
            RolloutPhase::Soaking => Some(Self::Soaking),
            RolloutPhase::Waving => Some(Self::Waving),
            RolloutPhase::Paused => Some(Self::Paused),
            RolloutPhase::Halted => Some(Self::Halted),
            RolloutPhase::RollingBack => Some(Self::RollingBack),
            RolloutPhase::RolledBack | RolloutPhase::Done | RolloutPhase::Aborted | RolloutPhase::Unknown => None,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = PhaseSet)]
struct ByPhase {
    phase: Phase,
}

/// What became of a compute of a roll-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Outcome {
    Healthy,
    Failed,
    Refused,
    Skipped,
    Unchanged,
    Restored,
    Unrestored,
    Overtaken,
}

impl Outcome {
    const fn of(phase: TargetPhase) -> Option<Self> {
        match phase {
            TargetPhase::Healthy => Some(Self::Healthy),
            TargetPhase::Failed => Some(Self::Failed),
            TargetPhase::Refused => Some(Self::Refused),
            TargetPhase::Skipped => Some(Self::Skipped),
            TargetPhase::Unchanged => Some(Self::Unchanged),
            TargetPhase::Restored => Some(Self::Restored),
            TargetPhase::Unrestored => Some(Self::Unrestored),
            TargetPhase::Overtaken => Some(Self::Overtaken),
            TargetPhase::Waiting | TargetPhase::InFlight | TargetPhase::GivenUp => None,
            TargetPhase::Returning | TargetPhase::Abandoned | TargetPhase::Unknown => None,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = OutcomeSet)]
struct ByOutcome {
    outcome: Outcome,
}

/// Roll-outs.
#[derive(MetricGroup)]
#[metric(new())]
pub struct RolloutMetrics {
    /// Roll-outs under way, by phase; only the leader has any.
    rollouts: GaugeVec<PhaseSet>,
    /// Computes of roll-outs, by what became of them.
    rollout_computes_total: CounterVec<OutcomeSet>,
}

impl RolloutMetrics {
    /// These are under way, and no others.
    pub(super) fn under_way(&self, phases: impl Iterator<Item = RolloutPhase>) {
        let mut counts = [0_i64; Phase::ALL.len()];
        for phase in phases.filter_map(Phase::of) {
            if let Some(count) = Phase::ALL.iter().position(|known| *known == phase).and_then(|at| counts.get_mut(at)) {
                *count += 1;
            }
        }
        for (phase, count) in Phase::ALL.into_iter().zip(counts) {
            self.rollouts.set(ByPhase { phase }, count);
        }
    }

    /// A compute stands somewhere new.
    pub(super) fn noted(&self, phase: TargetPhase) {
        if let Some(outcome) = Outcome::of(phase) {
            self.rollout_computes_total.inc(ByOutcome { outcome });
        }
    }
}
