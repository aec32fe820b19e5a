//! What the gate counts: requests that this member does not execute itself, or not at once.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{Counter, CounterVec, FixedCardinalityLabel, Gauge, Histogram, LabelGroup, MetricGroup};
use pgfleet_api::ErrorCode;
use pgfleet_runtime::metrics::show_zeros;

/// Why a request was refused in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Code {
    NoLeader,
    SteppedDown,
    TakingOver,
    OutcomeUnknown,
    ShuttingDown,
    Other,
}

impl From<ErrorCode> for Code {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NoLeader => Self::NoLeader,
            ErrorCode::SteppedDown => Self::SteppedDown,
            ErrorCode::TakingOver => Self::TakingOver,
            ErrorCode::OutcomeUnknown => Self::OutcomeUnknown,
            ErrorCode::ShuttingDown => Self::ShuttingDown,
            _ => Self::Other,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = CodeSet)]
struct ByCode {
    code: Code,
}

/// Requests held, handed on and refused.
#[derive(MetricGroup)]
#[metric(new())]
pub struct RequestMetrics {
    /// Requests that wait for a leader right now.
    requests_held: Gauge,
    /// Requests that had to wait for a leader.
    requests_held_total: Counter,
    /// Bytes of the requests that are held or on their way to the leader.
    requests_held_bytes: Gauge,
    /// Requests that another member answered for this one.
    requests_forwarded_total: Counter,
    /// Requests of clients that nobody executed or whose outcome is not known, by the code they were answered with.
    requests_failed_total: CounterVec<CodeSet>,
    /// How long requests that were held waited for a leader.
    #[metric(metadata = Thresholds::exponential_buckets(0.001, 2.0))]
    requests_hold_seconds: Histogram<12>,
}

impl RequestMetrics {
    pub(super) fn held(&self) {
        self.requests_held.get_metric().inc();
        self.requests_held_total.get_metric().inc();
    }

    pub(super) fn let_go(&self, after: Duration) {
        self.requests_held.get_metric().dec();
        self.requests_hold_seconds.get_metric().observe(after.as_secs_f64());
    }

    pub(super) fn bytes(&self, change: i64) {
        self.requests_held_bytes.get_metric().inc_by(change);
    }

    pub(super) fn forwarded(&self) {
        self.requests_forwarded_total.get_metric().inc();
    }

    /// Shows the counters that alerts look at before anything is counted.
    pub fn show_zeros(&self) {
        show_zeros(&self.requests_failed_total);
    }

    pub(super) fn failed(&self, code: ErrorCode) {
        self.requests_failed_total.inc(ByCode { code: code.into() });
    }
}
