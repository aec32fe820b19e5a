//! A door for tests: stop at a named point, say so, wait for SIGUSR1. Refused without `--dev`.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{ExitCode, USAGE};

/// The environment variable that arms points, separated by commas; `point@2` is the second time that it is reached.
pub const VARIABLE: &str = "PGFLEET_PAUSE_AT";

/// A place in a program where a test may want it to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PausePoint {
    /// The candidate has the old leader's consent and has not claimed yet.
    AfterStepDown,
    /// The candidate holds a new term and has not migrated yet.
    AfterClaim,
    /// A write transaction has passed its fence and is not committed.
    InWriteTx,
    /// Migrations are under way.
    MidMigration,
    /// Migrations are done, nothing is loaded.
    BeforeLoad,
    /// A push is decided and not sent.
    BeforePush,
    /// The agent has admitted a fence and not made it durable.
    AgentBeforeFsync,
    /// The agent's ledger is durable and nothing is done yet.
    AgentAfterRename,
    /// The agent is about to write the settings of an accepted spec.
    AgentBeforeApply,
    /// The settings of a spec are in effect, its roles and databases are not.
    AgentMidApply,
    /// A spec is in effect and the ledger does not say so yet.
    AgentBeforeGood,
}

impl PausePoint {
    /// Every point.
    pub const ALL: [Self; 11] = [
        Self::AfterStepDown,
        Self::AfterClaim,
        Self::InWriteTx,
        Self::MidMigration,
        Self::BeforeLoad,
        Self::BeforePush,
        Self::AgentBeforeFsync,
        Self::AgentAfterRename,
        Self::AgentBeforeApply,
        Self::AgentMidApply,
        Self::AgentBeforeGood,
    ];

    /// The name used in the variable and on the line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AfterStepDown => "after_step_down",
            Self::AfterClaim => "after_claim",
            Self::InWriteTx => "in_write_tx",
            Self::MidMigration => "mid_migration",
            Self::BeforeLoad => "before_load",
            Self::BeforePush => "before_push",
            Self::AgentBeforeFsync => "agent_before_fsync",
            Self::AgentAfterRename => "agent_after_rename",
            Self::AgentBeforeApply => "agent_before_apply",
            Self::AgentMidApply => "agent_mid_apply",
            Self::AgentBeforeGood => "agent_before_good",
        }
    }
}

impl FromStr for PausePoint {
    type Err = PauseError;

    fn from_str(name: &str) -> Result<Self, PauseError> {
        Self::ALL
            .into_iter()
            .find(|point| point.as_str() == name)
            .ok_or_else(|| PauseError::UnknownPoint(name.to_owned()))
    }
}

/// Why pauses cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// The variable is set in production.
    #[error("{VARIABLE} is set: it is for tests and needs --dev")]
    NeedsDev,
    /// There is no such point.
    #[error("{VARIABLE} names {0:?}, which is no pause point")]
    UnknownPoint(String),
}

impl ExitCode for PauseError {
    fn exit_code(&self) -> u8 {
        USAGE
    }
}

/// The armed points of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Pauses {
    /// How often a point is still to be reached.
    armed: Arc<Mutex<HashMap<PausePoint, u32>>>,
}

impl Pauses {
    /// No point is armed.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the variable.
    ///
    /// # Errors
    /// It is set without `dev`, or names a point that does not exist.
    pub fn from_env(dev: bool) -> Result<Self, PauseError> {
        match std::env::var(VARIABLE) {
            Ok(list) if !list.is_empty() => Self::parse(&list, dev),
            Ok(_) | Err(_) => Ok(Self::none()),
        }
    }

    /// Arms the points of a comma-separated list.
    ///
    /// # Errors
    /// As for [`Pauses::from_env`].
    pub fn parse(list: &str, dev: bool) -> Result<Self, PauseError> {
        if !dev {
            return Err(PauseError::NeedsDev);
        }
        let armed = list.split(',').map(|name| counted(name.trim())).collect::<Result<HashMap<_, _>, _>>()?;
        Ok(Self { armed: Arc::new(Mutex::new(armed)) })
    }

    /// Stands still here, once, if the point is armed and this is the time that is meant; other tasks go on.
    pub async fn at(&self, point: PausePoint) {
        if !self.is_due(point) {
            return;
        }
        // The handler stands before the line is out: a test signals as soon as it reads the line.
        let Ok(mut usr1) = signal(SignalKind::user_defined1()) else { return };
        eprintln!("pgfleet: paused at {} pid {}", point.as_str(), std::process::id());
        usr1.recv().await;
        eprintln!("pgfleet: goes on from {} pid {}", point.as_str(), std::process::id());
    }

    fn is_due(&self, point: PausePoint) -> bool {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = armed.get_mut(&point) else { return false };
        *left -= 1;
        let due = *left == 0;
        if due {
            armed.remove(&point);
        }
        due
    }
}

/// A point and the time that is meant.
fn counted(text: &str) -> Result<(PausePoint, u32), PauseError> {
    let (name, times) = text.split_once('@').unwrap_or((text, "1"));
    let times = times.parse().ok().filter(|times| *times > 0);
    Ok((name.parse()?, times.ok_or_else(|| PauseError::UnknownPoint(text.to_owned()))?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_are_read_back() {
        for point in PausePoint::ALL {
            assert_eq!(point.as_str().parse(), Ok(point));
        }
    }

    #[test]
    fn production_refuses_it() {
        assert_eq!(Pauses::parse("before_push", false).unwrap_err(), PauseError::NeedsDev);
        assert!(Pauses::parse("before_push@0", true).is_err() && Pauses::parse("before_push@x", true).is_err());
        assert_eq!(Pauses::parse("nowhere", true).unwrap_err(), PauseError::UnknownPoint("nowhere".into()));
    }

    #[tokio::test]
    async fn pauses_once_until_the_signal() {
        let pauses = Pauses::parse("before_push@2, after_claim", true).unwrap();
        pauses.at(PausePoint::BeforeLoad).await;
        pauses.at(PausePoint::BeforePush).await;
        let at = pauses.at(PausePoint::BeforePush);
        tokio::pin!(at);
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut at).await.is_err());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
        tokio::time::timeout(Duration::from_secs(5), at).await.unwrap();
        pauses.at(PausePoint::BeforePush).await;
    }
}
