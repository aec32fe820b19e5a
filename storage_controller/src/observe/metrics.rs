//! What the memory and the prober count.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::time::Duration;

use measured::{Counter, CounterVec, FixedCardinalityLabel, FloatGauge, Gauge, LabelGroup, MetricGroup};

use super::Memory;

/// How the memory was brought forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Read {
    /// Only what came after the cursor.
    CatchUp,
    /// Everything.
    Load,
    /// It failed.
    Failed,
}

#[derive(LabelGroup)]
#[label(set = ReadSet)]
struct ByRead {
    read: Read,
}

/// The memory of a member that does not lead.
#[derive(MetricGroup)]
#[metric(new())]
pub struct FollowerMetrics {
    /// 1 while the memory follows and has caught up a moment ago; 0 while it is cold, and on the leader.
    warm: Gauge,
    /// Last change that is in the memory; on the leader that of its beginning.
    change_seq: Gauge,
    /// Changes that the database told of and that are not in the memory yet.
    lag_changes: Gauge,
    /// Time since the last catch-up; 0 while the memory is cold, and on the leader.
    age_seconds: FloatGauge,
    /// Reads of the memory: catch-ups, whole loads, failures.
    reads_total: CounterVec<ReadSet>,
    /// Rows that were read into the memory.
    rows_total: Counter,
}

impl FollowerMetrics {
    pub(super) fn caught_up(&self, rows: usize) {
        self.read(Read::CatchUp, rows);
    }

    pub(super) fn loaded(&self, rows: usize) {
        self.read(Read::Load, rows);
    }

    pub(super) fn failed(&self) {
        self.read(Read::Failed, 0);
    }

    fn read(&self, read: Read, rows: usize) {
        self.reads_total.inc(ByRead { read });
        self.rows_total.get_metric().inc_by(u64::try_from(rows).unwrap_or(u64::MAX));
    }

    pub(super) fn at(&self, change_seq: i64, lag: i64) {
        self.change_seq.get_metric().set(change_seq);
        self.lag(lag);
    }

    pub(super) fn lag(&self, lag: i64) {
        self.lag_changes.get_metric().set(lag);
    }

    /// Measures what changes by itself; called before a scrape.
    pub fn measure(&self, memory: &Memory) {
        self.warm.get_metric().set(i64::from(memory.is_warm()));
        self.age_seconds.get_metric().set(memory.age().map_or(0.0, |age| age.as_secs_f64()));
    }
}

/// The prober of a leader.
#[derive(MetricGroup)]
#[metric(new())]
pub struct PresenceMetrics {
    /// Probes under way.
    probes_in_flight: Gauge,
    /// How late the probe is that is most overdue; above some seconds the prober does not keep up.
    probe_late_seconds: FloatGauge,
    /// Times that a probe waited for the connect budget.
    probe_budget_waits_total: Counter,
}

impl PresenceMetrics {
    pub(super) fn filled(&self, in_flight: usize, late: Option<Duration>) {
        self.probes_in_flight.get_metric().set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        self.probe_late_seconds.get_metric().set(late.unwrap_or_default().as_secs_f64());
    }

    pub(super) fn waited_for_budget(&self) {
        self.probe_budget_waits_total.get_metric().inc();
    }

    /// The leadership is over.
    pub(super) fn left(&self) {
        self.filled(0, None);
    }
}
