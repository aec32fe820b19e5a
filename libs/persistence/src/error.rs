//! What can go wrong with the database, classified by SQLSTATE and never by text.
//!
//! Called by: every module of this crate, and by callers that map a class to an exit code or a retry.

use thiserror::Error;
use tokio_postgres::error::Severity;

/// What kind of trouble an error is. Decisions are made on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The server cannot be reached, went away, does not answer in time or does not take writes.
    Connection,
    /// 40001: try the transaction again.
    Serialization,
    /// 40P01: try the transaction again.
    Deadlock,
    /// 55P03: somebody held a lock for longer than `lock_timeout`.
    LockTimeout,
    /// 57014: the statement ran for longer than `statement_timeout`.
    StatementTimeout,
    /// Class 22: the data do not fit, for example a NUL in text.
    Data,
    /// Class 23: a constraint refuses.
    Integrity,
    /// Class 28 and 42501: who we are is refused, or what we may.
    Permission,
    /// 57P01 to 57P05: the server ends, starts, or ended this session.
    Shutdown,
    /// Everything else.
    Other,
}

impl ErrorClass {
    /// The class of a five-character SQLSTATE.
    #[must_use]
    pub fn of_sqlstate(state: &str) -> Self {
        match state {
            "40001" => Self::Serialization,
            "40P01" => Self::Deadlock,
            "55P03" => Self::LockTimeout,
            "57014" => Self::StatementTimeout,
            "42501" => Self::Permission,
            // The idle timeouts end a session as an administrator's command would.
            "25P03" | "25P04" => Self::Shutdown,
            "25006" => Self::Connection,
            _ if state.starts_with("57P") => Self::Shutdown,
            _ if state.starts_with("08") || state == "53300" => Self::Connection,
            _ if state.starts_with("22") => Self::Data,
            _ if state.starts_with("23") => Self::Integrity,
            _ if state.starts_with("28") => Self::Permission,
            _ => Self::Other,
        }
    }
}

/// An error of the database or of the way to it.
#[derive(Debug, Error)]
pub enum DbError {
    /// The URL or a file it names cannot be used; nothing was dialled.
    #[error("the database URL cannot be used: {reason}")]
    Config {
        /// What is wrong with it; never the URL itself, which holds a password.
        reason: String,
    },
    /// The first connection failed.
    #[error("cannot connect to the database {target}")]
    Connect {
        /// `user@host:port/dbname`.
        target: String,
        /// What the driver or the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No answer within the time we give; the session was dropped and its outcome is open.
    #[error("the database did not answer within {after_ms} ms while we {doing}")]
    Timeout {
        /// What was asked for.
        doing: &'static str,
        /// How long we waited.
        after_ms: u128,
    },
    /// The server ended the session between two statements, or the connection broke; nothing was under way.
    #[error("the database ended the session while we {doing}")]
    SessionEnded {
        /// What it was open for.
        doing: &'static str,
    },
    /// The server is a standby or read-only.
    #[error("the database {target} takes no writes: give all its hosts and target_session_attrs=read-write")]
    ReadOnly {
        /// `user@host:port/dbname`.
        target: String,
    },
    /// A statement failed.
    #[error("the database refused or broke off while we {doing}")]
    Query {
        /// What was asked for.
        doing: &'static str,
        /// What the driver or the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement of the pool failed.
    #[error("the database failed while we {doing}")]
    Diesel {
        /// What was asked for.
        doing: &'static str,
        /// What diesel said; most SQLSTATEs are lost in it.
        #[source]
        source: diesel::result::Error,
    },
    /// The pool gave no connection.
    #[error("no pooled connection to the database while we {doing}: {reason}")]
    Pool {
        /// What was asked for.
        doing: &'static str,
        /// What the pool said.
        reason: String,
    },
    /// A row holds what this version cannot read.
    #[error("the database holds a {what} that this version cannot read: {reason}")]
    Content {
        /// Which value.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// This build may not lead on the schema as it is; nothing was claimed.
    #[error("the schema lets builds from {lowest} on lead, and this one is {number}: start a newer build")]
    SchemaTooNew {
        /// Number of this build.
        number: i32,
        /// Lowest number that may lead.
        lowest: i32,
    },
    /// The change cursor is not where the only writer left it: committed work was lost, or somebody else wrote.
    #[error("the change cursor stands at {found:?}, the writer left it at {expected}: load afresh")]
    CursorMoved {
        /// Where the writer left it.
        expected: i64,
        /// Where it stands.
        found: Option<i64>,
    },
}

impl DbError {
    /// What kind of trouble this is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => class_of(source),
            Self::Timeout { .. } | Self::SessionEnded { .. } | Self::ReadOnly { .. } | Self::Pool { .. } => {
                ErrorClass::Connection
            }
            Self::Diesel { source: Diesel::DatabaseError(kind, _), .. } => match kind {
                Kind::UnableToSendCommand | Kind::ClosedConnection => ErrorClass::Connection,
                Kind::SerializationFailure => ErrorClass::Serialization,
                Kind::UniqueViolation
                | Kind::ForeignKeyViolation
                | Kind::NotNullViolation
                | Kind::CheckViolation
                | Kind::RestrictViolation
                | Kind::ExclusionViolation => ErrorClass::Integrity,
                _ => ErrorClass::Other,
            },
            Self::Diesel { source: Diesel::BrokenTransactionManager, .. } => ErrorClass::Connection,
            Self::Config { .. }
            | Self::Diesel { .. }
            | Self::Content { .. }
            | Self::SchemaTooNew { .. }
            | Self::CursorMoved { .. } => ErrorClass::Other,
        }
    }

    /// The server's code, where there is one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => source.code().map(|code| code.code()),
            _ => None,
        }
    }

    /// The server's message without its code, or the driver's; one line for a person.
    #[must_use]
    pub fn server_message(&self) -> String {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => message_of(source),
            Self::Diesel { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// Whether the same may be tried again and could succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.class() {
            ErrorClass::Connection
            | ErrorClass::Serialization
            | ErrorClass::Deadlock
            | ErrorClass::LockTimeout
            | ErrorClass::StatementTimeout
            | ErrorClass::Shutdown => true,
            ErrorClass::Data | ErrorClass::Integrity | ErrorClass::Permission | ErrorClass::Other => false,
        }
    }

    /// Whether the session is gone, so that nothing more can be asked on it.
    pub(crate) fn ends_session(&self) -> bool {
        match self {
            Self::Query { source, .. } => ends_session(source),
            other => matches!(other.class(), ErrorClass::Connection | ErrorClass::Shutdown),
        }
    }

    pub(crate) fn query(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Query { doing, source }
    }

    pub(crate) fn diesel(doing: &'static str) -> impl FnOnce(diesel::result::Error) -> Self {
        move |source| Self::Diesel { doing, source }
    }

    pub(crate) fn content(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Content { what, reason: reason.to_string() }
    }
}

/// Whether the server, or the way to it, has ended the session with this error.
pub(crate) fn ends_session(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(db) => matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
        None => class_of(error) == ErrorClass::Connection,
    }
}

fn class_of(error: &tokio_postgres::Error) -> ErrorClass {
    if let Some(code) = error.code() {
        return ErrorClass::of_sqlstate(code.code());
    }
    // Without a code the driver speaks: a closed or broken connection has an I/O cause or none at all, while a
    // value that does not convert, or a protocol fault, has another one.
    if error.is_closed() {
        return ErrorClass::Connection;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            return ErrorClass::Connection;
        }
        cause = inner.source();
    }
    ErrorClass::Other
}

fn message_of(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => match error.source() {
            Some(cause) => cause.to_string(),
            None => error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorClass;

    #[test]
    fn classes_come_from_codes() {
        let table = [
            ("40001", ErrorClass::Serialization),
            ("40P01", ErrorClass::Deadlock),
            ("55P03", ErrorClass::LockTimeout),
            ("57014", ErrorClass::StatementTimeout),
            ("22P05", ErrorClass::Data),
            ("23505", ErrorClass::Integrity),
            ("28P01", ErrorClass::Permission),
            ("42501", ErrorClass::Permission),
            ("57P01", ErrorClass::Shutdown),
            ("57P03", ErrorClass::Shutdown),
            ("25P03", ErrorClass::Shutdown),
            ("08006", ErrorClass::Connection),
            ("42P01", ErrorClass::Other),
        ];
        for (state, class) in table {
            assert_eq!(ErrorClass::of_sqlstate(state), class, "{state}");
        }
    }
}
