//! How this program ends: one line on standard error, and a code that a script can act on.

use std::error::Error as _;
use std::process::ExitCode;

use pgfleet_clients::controller::ControllerError;
use pgfleet_clients::token::TokenError;
use pgfleet_clients::transport::{RootsError, SetUpError};

use crate::output::to_stderr;

/// What `--help` ends with.
pub const HELP: &str = "\
First steps:
  pgfleet local up    a whole cluster on this machine, to try; pgfleet local down ends it
  pgfleet config set-context NAME --endpoint URL --token-file FILE --current    your own
  pgfleet leader, pgfleet compute list, pgfleet compute put ID --agent-url URL --spec FILE --wait

Exit codes:
  0   done
  1   failed: a rule refused it, a spec was rejected, time ran out
  2   partly failed: of several things asked for, some were not done
  64  usage or configuration: a wrong flag, an unreadable file, nothing to connect to
  69  a service is away: no controller executed the request, PostgreSQL does not start
  77  not allowed: the token is missing, expired or not enough
  78  a directory or state that pgfleet did not make, or cannot read";

/// Why the program ends without having done what was asked; the variant is the exit code.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// 1
    #[error("{0}")]
    Failed(String),
    /// 2
    #[error("{0}")]
    Partly(String),
    /// 64
    #[error("{0}")]
    Usage(String),
    /// 69
    #[error("{0}")]
    Away(String),
    /// 77
    #[error("{0}")]
    NotAllowed(String),
    /// 78
    #[error("{0}")]
    NotOurs(String),
}

impl CliError {
    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Partly(_) => 2,
            Self::Usage(_) => 64,
            Self::Away(_) => 69,
            Self::NotAllowed(_) => 77,
            Self::NotOurs(_) => 78,
        }
    }
}

impl From<ControllerError> for CliError {
    fn from(error: ControllerError) -> Self {
        let line = error.to_string();
        match error {
            ControllerError::Refused { .. } | ControllerError::OutcomeUnknown { .. } | ControllerError::Body(_) => {
                Self::Failed(line)
            }
            ControllerError::NotAllowed { .. } => Self::NotAllowed(line),
            ControllerError::Unavailable { .. } | ControllerError::Garbled { .. } => Self::Away(line),
            ControllerError::Token(error) => error.into(),
        }
    }
}

impl From<TokenError> for CliError {
    fn from(error: TokenError) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Usage(format!("{error}{cause}"))
    }
}

impl From<RootsError> for CliError {
    fn from(error: RootsError) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Usage(format!("{error}{cause}"))
    }
}

impl From<SetUpError> for CliError {
    fn from(error: SetUpError) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Failed(format!("{error}{cause}"))
    }
}

/// Prints the one line and gives the code.
pub fn report(error: &CliError) -> ExitCode {
    note(&error.to_string());
    ExitCode::from(error.code())
}

/// Prints one line on standard error.
pub fn note(text: &str) {
    to_stderr(&format!("pgfleet: {}", text.replace('\n', " ")));
}

/// clap's own answer: `--help` and `--version` are successes, everything else is 64 instead of clap's 2.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to do when standard error is closed.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgfleet_api::{ErrorBody, ErrorCode};

    #[test]
    fn every_way_to_fail_has_its_documented_code() {
        let refused = |status| ControllerError::Refused {
            endpoint: "e".to_owned(),
            status,
            body: Box::new(ErrorBody::new(ErrorCode::InvalidBody, "m").at("a.b")),
        };
        assert_eq!(CliError::from(refused(422)).code(), 1);
        assert!(CliError::from(refused(422)).to_string().contains("a.b"));
        let not_allowed = ControllerError::NotAllowed { endpoint: "e".to_owned(), status: 401, msg: "m".to_owned() };
        assert_eq!(CliError::from(not_allowed).code(), 77);
        let away = ControllerError::Unavailable { waited: std::time::Duration::ZERO, tried: "t".to_owned() };
        assert_eq!(CliError::from(away).code(), 69);
        assert_eq!(CliError::from(TokenError::NotAToken { path: "f".into() }).code(), 64);
        for code in [1, 2, 64, 69, 77, 78] {
            assert!(HELP.contains(&format!("\n  {code:<4}")), "{code} is not documented");
        }
    }
}
