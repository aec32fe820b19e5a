//! What the chair counts.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::collections::BTreeMap;
use std::time::Duration;

use measured::{
    Counter, CounterVec, FixedCardinalityLabel, FloatGauge, FloatGaugeVec, Gauge, GaugeVec, LabelGroup, MetricGroup,
};
use pgfleet_api::Term;
use pgfleet_api::controller::Role;
use pgfleet_domain::leadership::Began;
use pgfleet_runtime::metrics::show_zeros;

use super::handle::Handle;

/// The role as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Status {
    Candidate,
    TakingOver,
    Leader,
    Suspended,
    SteppingDown,
    SteppedDown,
}

impl From<Role> for Status {
    fn from(role: Role) -> Self {
        match role {
            Role::Candidate => Self::Candidate,
            Role::TakingOver => Self::TakingOver,
            Role::Leader => Self::Leader,
            Role::Suspended => Self::Suspended,
            Role::SteppingDown => Self::SteppingDown,
            Role::SteppedDown => Self::SteppedDown,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = StatusSet)]
struct ByStatus {
    status: Status,
}

/// A part of a hand-over, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub enum Phase {
    /// From asking the old leader, or noticing its death, to its consent.
    StepDown,
    /// From there to the committed claim.
    Claim,
    /// Migrations.
    Migrate,
    /// Loading the state.
    Load,
    /// Starting the tasks.
    Start,
}

#[derive(LabelGroup)]
#[label(set = PhaseSet)]
struct ByPhase {
    phase: Phase,
}

/// How a term began, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum How {
    First,
    StepDown,
    Released,
    Crash,
    Lease,
    Revert,
}

impl From<Began> for How {
    fn from(how: Began) -> Self {
        match how {
            Began::First => Self::First,
            Began::StepDown => Self::StepDown,
            Began::Released => Self::Released,
            Began::Crash => Self::Crash,
            Began::Lease => Self::Lease,
            Began::Revert => Self::Revert,
        }
    }
}

/// What made this member look at the row at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub(super) enum Wake {
    /// The stream to the leader ended.
    Stream,
    /// A line of the stream said that the leadership changes.
    Line,
    /// The database told of a claim or a release.
    Notice,
}

#[derive(LabelGroup)]
#[label(set = WakeSet)]
struct ByWake {
    cause: Wake,
}

/// What the database said about a term whose memory is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub(super) enum Confirmation {
    /// It leads.
    Leads,
    /// It does not lead any more.
    Deposed,
    /// Nothing, in time.
    Failed,
}

#[derive(LabelGroup)]
#[label(set = ConfirmationSet)]
struct ByConfirmation {
    outcome: Confirmation,
}

#[derive(LabelGroup)]
#[label(set = HowSet)]
struct ByHow {
    how: How,
}

/// Leadership of this member.
#[derive(MetricGroup)]
#[metric(new())]
pub struct LeadershipMetrics {
    /// 1 for the role this member has, 0 for the others.
    leadership_status: GaugeVec<StatusSet>,
    /// Term that this member holds, or held last; 0 before the first.
    leadership_term: Gauge,
    /// Terms that this member took, by how they began.
    leadership_takeovers_total: CounterVec<HowSet>,
    /// Time since the renewal was sent that this leader goes by; 0 on a member that holds no term.
    leadership_lease_age_seconds: FloatGauge,
    /// Renewals of the lease that failed.
    leadership_renewal_failures_total: Counter,
    /// Times that this leader could not prove its lease and executed nothing until it could.
    leadership_suspensions_total: Counter,
    /// Length of the suspension that ended last; 0 before the first.
    leadership_suspended_seconds: FloatGauge,
    /// Members that follow this one.
    leadership_followers: Gauge,
    /// Looks at the leader row that did not wait for their time, by what caused them.
    leadership_wakes_total: CounterVec<WakeSet>,
    /// Questions to the database whether this member still leads, each for all reads that waited, by what came of them.
    leadership_confirmations_total: CounterVec<ConfirmationSet>,
    /// From asking the old leader, or noticing its death, to serving: the last one of this member.
    handover_gap_seconds: FloatGauge,
    /// Parts of the last hand-over to this member.
    handover_phase_seconds: FloatGaugeVec<PhaseSet>,
}

impl LeadershipMetrics {
    /// The role changed.
    pub fn standing(&self, role: Role, term: Option<Term>) {
        for other in Role::ALL {
            self.leadership_status.set(ByStatus { status: other.into() }, i64::from(other == role));
        }
        if let Some(term) = term {
            self.leadership_term.get_metric().set(term.get());
        }
    }

    /// Measures what changes by itself; called before a scrape.
    pub fn measure(&self, chair: &Handle) {
        self.leadership_lease_age_seconds.get_metric().set(chair.lease_age().as_secs_f64());
    }

    /// Shows the counters that alerts look at before anything is counted.
    pub fn show_zeros(&self) {
        show_zeros(&self.leadership_takeovers_total);
    }

    /// A term was won.
    pub fn took(&self, how: Began) {
        self.leadership_takeovers_total.inc(ByHow { how: how.into() });
    }

    /// A renewal failed.
    pub fn renewal_failed(&self) {
        self.leadership_renewal_failures_total.get_metric().inc();
    }

    /// A question for waiting reads was answered, or not.
    pub(super) fn confirmed(&self, outcome: Confirmation) {
        self.leadership_confirmations_total.inc(ByConfirmation { outcome });
    }

    /// It cannot prove its lease.
    pub(super) fn suspended(&self) {
        self.leadership_suspensions_total.get_metric().inc();
    }

    /// It can again, or gave up.
    pub(super) fn resumed(&self, after: Duration) {
        self.leadership_suspended_seconds.get_metric().set(after.as_secs_f64());
    }

    /// So many members follow.
    pub(super) fn streams(&self, count: usize) {
        self.leadership_followers.get_metric().set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Something made it look at once.
    pub(super) fn woken(&self, cause: Wake) {
        self.leadership_wakes_total.inc(ByWake { cause });
    }

    /// Parts of the last hand-over to this member in milliseconds, and all of it.
    pub(super) fn last_hand_over(&self) -> (f64, BTreeMap<String, f64>) {
        let phases = [
            ("step_down", Phase::StepDown),
            ("claim", Phase::Claim),
            ("migrate", Phase::Migrate),
            ("load", Phase::Load),
            ("start", Phase::Start),
        ];
        let phases = phases.map(|(name, phase)| {
            let id = self.handover_phase_seconds.with_labels(ByPhase { phase });
            (name.to_owned(), self.handover_phase_seconds.get_metric(id).count.get() * 1000.0)
        });
        (self.handover_gap_seconds.get_metric().count.get() * 1000.0, phases.into())
    }

    /// A part of a hand-over ended.
    pub fn phase(&self, phase: Phase, took: Duration) {
        tracing::debug!(
            ?phase,
            duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "a phase of the hand-over ended"
        );
        tracing::info!(target: "spans::leadership", ?phase, duration_ms = took.as_secs_f64() * 1000.0);
        self.handover_phase_seconds.set(ByPhase { phase }, took.as_secs_f64());
    }

    /// A hand-over ended.
    pub fn gap(&self, took: Duration) {
        self.handover_gap_seconds.get_metric().set(took.as_secs_f64());
    }
}
