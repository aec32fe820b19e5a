//! Why a controller does not start, or ends.

use pgfleet_clients::token::TokenError;
use pgfleet_clients::transport::SetUpError;
use pgfleet_persistence::{DbError, ErrorClass, MigrationError};
use pgfleet_runtime::auth::JwksError;
use pgfleet_runtime::exit::{ExitCode, FAILED, NOT_ALLOWED, UNAVAILABLE, USAGE};
use pgfleet_runtime::listener::BindError;
use pgfleet_runtime::panic_door::PanicDoorError;
use pgfleet_runtime::pause::PauseError;
use pgfleet_runtime::port_file::PortFileError;

use crate::config::ConfigError;

/// One line for the operator, and the exit code that goes with it.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The command line cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The test doors cannot be opened.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// As above.
    #[error(transparent)]
    PanicDoor(#[from] PanicDoorError),
    /// The public keys cannot be read.
    #[error("--jwks-file cannot be used")]
    Jwks(#[from] JwksError),
    /// The private key cannot be read.
    #[error("--jwt-private-key cannot be used")]
    Key(#[from] TokenError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The port file cannot be written.
    #[error(transparent)]
    PortFile(#[from] PortFileError),
    /// An HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[from] SetUpError),
    /// The database cannot be used at the start.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The migrations of this build cannot be told, or failed in the rehearsal; nothing was touched.
    #[error("this build cannot take over")]
    Migrations(#[from] MigrationError),
    /// The advertised address leads elsewhere.
    #[error("--advertise {address} does not lead to this process but to {met}: give the address of its own listener")]
    NotMyself {
        /// What is advertised.
        address: String,
        /// Who is there.
        met: &'static str,
    },
    /// The leader refuses this member's key.
    #[error("the leader does not accept this member's token: give all members the same --jwks-file and keys")]
    PeerUnauthorized,
    /// A migration or the load failed; the row is released and the log has the cause.
    #[error("could not take over; the leader row was released so that another member can lead")]
    TakeOverFailed,
    /// A vital task ended.
    #[error("{0}")]
    Task(String),
    /// The runtime failed.
    #[error("the system refuses")]
    Runtime(#[source] std::io::Error),
}

impl ExitCode for AppError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Pause(error) => error.exit_code(),
            Self::PanicDoor(error) => error.exit_code(),
            Self::Bind(error) => error.exit_code(),
            Self::Jwks(_) | Self::Key(_) | Self::NotMyself { .. } | Self::PeerUnauthorized => USAGE,
            Self::Database(DbError::Config { .. }) => USAGE,
            Self::Database(error) if error.class() == ErrorClass::Permission => NOT_ALLOWED,
            Self::Migrations(MigrationError::Directory { .. }) => USAGE,
            Self::Database(_) | Self::Migrations(MigrationError::Database(_)) => UNAVAILABLE,
            Self::Migrations(_)
            | Self::PortFile(_)
            | Self::Client(_)
            | Self::TakeOverFailed
            | Self::Task(_)
            | Self::Runtime(_) => FAILED,
        }
    }
}
