//! Latency and errors of the database, as its users see them.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, Gauge, GaugeVec, HistogramVec, LabelGroup, MetricGroup};
use pgfleet_persistence::{DbError, ErrorClass, WriteError};

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

#[derive(LabelGroup)]
#[label(set = AccessSet)]
struct ByAccess {
    access: Access,
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
