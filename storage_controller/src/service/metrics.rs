//! Latency and errors of the database, as its users see them.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, Gauge, GaugeVec, Histogram, HistogramVec, LabelGroup, MetricGroup};
use pgfleet_persistence::{Batch, Database, DbError, ErrorClass, WriteError};
use pgfleet_runtime::metrics::show_zeros;

/// What was asked of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
pub enum Operation {
    /// A change through the one writer.
    Write,
    /// A read.
    Read,
    /// The load at a take-over.
    Load,
    /// Migrations at a take-over.
    Migrate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Class {
    Connection,
    Serialization,
    Deadlock,
    LockTimeout,
    StatementTimeout,
    Data,
    Integrity,
    Permission,
    Shutdown,
    NotLeader,
    OutcomeUnknown,
    Other,
}

impl From<ErrorClass> for Class {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Connection => Self::Connection,
            ErrorClass::Serialization => Self::Serialization,
            ErrorClass::Deadlock => Self::Deadlock,
            ErrorClass::LockTimeout => Self::LockTimeout,
            ErrorClass::StatementTimeout => Self::StatementTimeout,
            ErrorClass::Data => Self::Data,
            ErrorClass::Integrity => Self::Integrity,
            ErrorClass::Permission => Self::Permission,
            ErrorClass::Shutdown => Self::Shutdown,
            ErrorClass::Other => Self::Other,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = OperationSet)]
struct ByOperation {
    operation: Operation,
}

#[derive(LabelGroup)]
#[label(set = ErrorSet)]
struct ByError {
    operation: Operation,
    class: Class,
}

/// What a schema lets a build do, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Access {
    Read,
    Lead,
}

/// What a connection of the pool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Connections {
    Busy,
    Idle,
    Limit,
}

#[derive(LabelGroup)]
#[label(set = ConnectionsSet)]
struct ByConnections {
    is: Connections,
}

#[derive(LabelGroup)]
#[label(set = AccessSet)]
struct ByAccess {
    access: Access,
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The database.
#[derive(MetricGroup)]
#[metric(new())]
pub struct DatabaseMetrics {
    /// Time of database operations, waiting in our own queue included.
    #[metric(metadata = Thresholds::exponential_buckets(0.000_5, 2.5))]
    database_duration_seconds: HistogramVec<OperationSet, 12>,
    /// Database operations that failed, by class of error.
    database_errors_total: CounterVec<ErrorSet>,
    /// Connections of the pool for reads, by what they do; limit is how many there may be.
    database_pool_connections: GaugeVec<ConnectionsSet>,
    /// Reads that wait for a connection of the pool.
    database_pool_waiting: Gauge,
    /// Changes in one batch of the writer.
    #[metric(metadata = Thresholds::exponential_buckets(1.0, 2.0))]
    writer_batch_changes: Histogram<10>,
    /// How long the oldest change of a batch waited for its turn.
    #[metric(metadata = Thresholds::exponential_buckets(0.000_5, 2.5))]
    writer_wait_seconds: Histogram<10>,
    /// Time of one batch of the writer, retries included.
    #[metric(metadata = Thresholds::exponential_buckets(0.000_5, 2.5))]
    writer_batch_duration_seconds: Histogram<10>,
    /// 1 if the schema lets this build do it: read means load and follow, lead means claim and write.
    schema_compatible: GaugeVec<AccessSet>,
    /// Migrations that this build carries and the schema lacks.
    schema_migrations_pending: Gauge,
}

impl DatabaseMetrics {
    /// An operation ended.
    pub fn took(&self, operation: Operation, took: Duration) {
        self.database_duration_seconds.observe_duration(ByOperation { operation }, took);
    }

    /// The writer has done a batch.
    pub fn wrote(&self, batch: Batch) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most a few hundred changes")]
        self.writer_batch_changes.get_metric().observe(batch.changes as f64);
        self.writer_wait_seconds.get_metric().observe(batch.waited.as_secs_f64());
        self.writer_batch_duration_seconds.get_metric().observe(batch.took.as_secs_f64());
    }

    /// Measures what changes by itself; called before a scrape.
    pub fn measure(&self, database: &Database) {
        let pool = database.pool_use();
        let set = |is, count| self.database_pool_connections.set(ByConnections { is }, number(count));
        set(Connections::Busy, pool.busy);
        set(Connections::Idle, pool.idle);
        set(Connections::Limit, pool.limit);
        self.database_pool_waiting.get_metric().set(number(pool.waiting));
    }

    /// Shows the counters that alerts look at before anything is counted: a series that begins with its first event has no
    /// increase.
    pub fn show_zeros(&self) {
        show_zeros(&self.database_errors_total);
    }

    /// An operation failed.
    pub fn failed(&self, operation: Operation, error: &DbError) {
        self.database_errors_total.inc(ByError { operation, class: error.class().into() });
    }

    /// The schema was looked at.
    pub fn schema_lets(&self, read: bool, lead: bool) {
        self.schema_compatible.set(ByAccess { access: Access::Read }, i64::from(read));
        self.schema_compatible.set(ByAccess { access: Access::Lead }, i64::from(lead));
    }

    /// So many migrations of this build have not run.
    pub fn migrations_pending(&self, count: usize) {
        self.schema_migrations_pending.get_metric().set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A write failed; what its caller asked for in vain is not the database's failure.
    pub fn write_failed(&self, error: &WriteError) {
        let class = match error {
            WriteError::UnknownCompute | WriteError::PreconditionFailed { .. } => return,
            WriteError::NotLeader => Class::NotLeader,
            WriteError::Refused { sqlstate, .. } => ErrorClass::of_sqlstate(sqlstate).into(),
            WriteError::Unavailable { .. } => Class::Connection,
            WriteError::OutcomeUnknown => Class::OutcomeUnknown,
        };
        self.database_errors_total.inc(ByError { operation: Operation::Write, class });
    }
}
