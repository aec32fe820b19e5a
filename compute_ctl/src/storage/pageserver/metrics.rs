//! Numbers of page-server storage: metrics that add up, and the timings of the last start.

use measured::metric::histogram::Thresholds;
use measured::{Counter, CounterVec, FixedCardinalityLabel, Gauge, Histogram, LabelGroup, MetricGroup};

/// How a try to fetch a base backup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub(super) enum BackupOutcome {
    Done,
    Failed,
}

#[derive(LabelGroup)]
#[label(set = BackupSet)]
pub(super) struct Backup {
    pub(super) outcome: BackupOutcome,
}

/// How the end of the WAL was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub(super) enum SyncOutcome {
    /// The safekeepers agreed by themselves.
    Agreed,
    /// PostgreSQL settled it.
    Settled,
    /// It was not found.
    Failed,
}

#[derive(LabelGroup)]
#[label(set = SyncSet)]
pub(super) struct Sync {
    pub(super) outcome: SyncOutcome,
}

/// Storage at page servers; all zero on stock PostgreSQL.
#[derive(MetricGroup)]
pub struct StorageMetrics {
    /// Tries to fetch a base backup from a page server, by outcome.
    pub(super) basebackups_total: CounterVec<BackupSet>,
    /// Compressed bytes of base backups received.
    pub(super) basebackup_bytes_total: Counter,
    /// Time for one base backup that was fetched and unpacked.
    pub(super) basebackup_duration_seconds: Histogram<10>,
    /// Questions where the WAL ends at the safekeepers, by outcome.
    pub(super) safekeeper_syncs_total: CounterVec<SyncSet>,
    /// Tries to get or renew the lease of an LSN that failed.
    pub(super) lease_errors_total: Counter,
    /// Seconds that the lease of an LSN was good for when it was got last; 0 without one.
    pub(super) lease_seconds: Gauge,
}

impl Default for StorageMetrics {
    fn default() -> Self {
        let metrics = Self {
            basebackups_total: CounterVec::with_label_set(BackupSet::new()),
            basebackup_bytes_total: Counter::new(),
            basebackup_duration_seconds: Histogram::with_metadata(Thresholds::exponential_buckets(0.02, 2.5)),
            safekeeper_syncs_total: CounterVec::with_label_set(SyncSet::new()),
            lease_errors_total: Counter::new(),
            lease_seconds: Gauge::new(),
        };
        for outcome in [BackupOutcome::Done, BackupOutcome::Failed] {
            metrics.basebackups_total.inc_by(Backup { outcome }, 0);
        }
        for outcome in [SyncOutcome::Agreed, SyncOutcome::Settled, SyncOutcome::Failed] {
            metrics.safekeeper_syncs_total.inc_by(Sync { outcome }, 0);
        }
        metrics
    }
}

/// How long the parts of the last start took; 0 where one was not done. As `/metrics.json` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Connecting to the page server, in microseconds.
    pub pageserver_connect_micros: u64,
    /// Fetching and unpacking the base backup, in milliseconds.
    pub basebackup_ms: u64,
    /// Its compressed size.
    pub basebackup_bytes: u64,
    /// Asking the safekeepers whether they agree, in milliseconds.
    pub sync_sk_check_ms: u64,
    /// Having PostgreSQL settle where the WAL ends, in milliseconds.
    pub sync_safekeepers_ms: u64,
}

/// Milliseconds, as far as they fit.
pub(super) fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
