//! A door for tests: a writer stands still while it holds the lock, says so, and waits for SIGUSR1. Refused without
//! `--dev`, like the doors of the servers.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{CliError, note};

/// The environment variable that names a point.
const VARIABLE: &str = "PGFLEET_PAUSE_AT";

/// Where a writer can stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// It has the lock and has read nothing.
    Locked,
    /// The new file is written beside the old one.
    Written,
}

impl Point {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "config_locked",
            Self::Written => "config_written",
        }
    }
}

/// The point that is armed.
#[derive(Debug, Clone, Copy)]
pub struct Door(Option<Point>);

impl Door {
    /// Reads the variable.
    pub fn from_env(dev: bool) -> Result<Self, CliError> {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return Ok(Self(None)) };
        if !dev {
            return Err(CliError::Usage(format!("{VARIABLE} is for tests; unset it, or give --dev")));
        }
        let found = [Point::Locked, Point::Written].into_iter().find(|point| name == point.as_str());
        match found {
            Some(point) => Ok(Self(Some(point))),
            None => Err(CliError::Usage(format!("{VARIABLE}: there is no point {name:?}"))),
        }
    }

    /// No point is armed.
    #[cfg(test)]
    pub const fn closed() -> Self {
        Self(None)
    }

    /// Stands still if this point is armed.
    pub async fn stop_at(&self, point: Point) {
        if self.0 == Some(point)
            && let Ok(mut go_on) = signal(SignalKind::user_defined1())
        {
            note(&format!("paused at {}", point.as_str()));
            go_on.recv().await;
        }
    }
}
