//! How a program ends: documented exit codes and one line on stderr. Called by every `main`.

use std::error::Error;

/// Done.
pub const OK: u8 = 0;
/// Failed.
pub const FAILED: u8 = 1;
/// Partly failed (bulk operations).
pub const PARTLY: u8 = 2;
/// Usage or configuration.
pub const USAGE: u8 = 64;
/// A service is away.
pub const UNAVAILABLE: u8 = 69;
/// Not allowed.
pub const NOT_ALLOWED: u8 = 77;
/// Data directory or state that is not ours.
pub const NOT_OURS: u8 = 78;

/// An error that knows how the process ends because of it.
pub trait ExitCode {
    /// One of the constants of this module.
    fn exit_code(&self) -> u8;
}

/// Parses the command line. `--help` and `--version` print and end with 0, everything clap refuses ends with 64.
///
/// # Errors
/// The code to return from `main`; the message is printed already.
pub fn parse_args<T: clap::Parser>() -> Result<T, std::process::ExitCode> {
    T::try_parse().map_err(|error| {
        if error.use_stderr() {
            let program = T::command().get_name().to_owned();
            eprintln!("{program}: error: {}", one_line(&error.to_string()));
            std::process::ExitCode::from(USAGE)
        } else {
            // Printing help to a closed pipe is not worth an error.
            let _ = error.print();
            std::process::ExitCode::from(OK)
        }
    })
}

/// clap explains itself in paragraphs; an operator's log wants one line.
fn one_line(text: &str) -> String {
    let said = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    format!("{} (see --help)", said.trim_start_matches("error: "))
}

/// Ends a program: success is 0, an error is one line `program: error: what: cause: cause` and its code.
pub fn finish<E: Error + ExitCode>(program: &str, result: Result<(), E>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::from(OK),
        Err(error) => {
            eprintln!("{program}: error: {}", chain(&error));
            std::process::ExitCode::from(error.exit_code())
        }
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    impl ExitCode for Outer {
        fn exit_code(&self) -> u8 {
            NOT_OURS
        }
    }

    #[test]
    fn a_chain_is_one_line() {
        let error = Outer(std::io::Error::other("disk\nfull"));
        assert_eq!(chain(&error), "cannot start: disk full");
        assert_eq!(error.exit_code(), 78);
    }

    #[test]
    fn claps_paragraphs_become_one_line() {
        let text = "error: the following required arguments were not provided:\n  --pgdata <DIR>\n\nUsage: x --pgdata <DIR>\n\nFor more information, try '--help'.\n";
        assert_eq!(one_line(text), "the following required arguments were not provided: --pgdata <DIR> (see --help)");
    }
}
