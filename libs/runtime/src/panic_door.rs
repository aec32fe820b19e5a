//! A door for tests: panic at a named point of the work on a named compute. Refused without `--dev`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use pgfleet_api::ComputeId;

use crate::exit::{ExitCode, USAGE};

/// The environment variable that arms points: `point:compute_id` or `point:compute_id:times`, separated by commas.
pub const VARIABLE: &str = "PGFLEET_PANIC_AT";

/// A place in a program where a test may want it to panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PanicPoint {
    /// A pass of the engine begins.
    InPass,
    /// A push holds its place among the calls to agents and is not sent.
    InPush,
    /// A probe of the sweep begins.
    InProbe,
    /// The engine's own loop starts a pass: a vital task.
    InEngine,
}

impl PanicPoint {
    /// Every point.
    pub const ALL: [Self; 4] = [Self::InPass, Self::InPush, Self::InProbe, Self::InEngine];

    /// The name used in the variable.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InPass => "in_pass",
            Self::InPush => "in_push",
            Self::InProbe => "in_probe",
            Self::InEngine => "in_engine",
        }
    }
}

impl FromStr for PanicPoint {
    type Err = PanicDoorError;

    fn from_str(name: &str) -> Result<Self, PanicDoorError> {
        let known = Self::ALL.into_iter().find(|point| point.as_str() == name);
        known.ok_or_else(|| PanicDoorError::Malformed(name.to_owned()))
    }
}

/// Why panics cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PanicDoorError {
    /// The variable is set in production.
    #[error("{VARIABLE} is set: it is for tests and needs --dev")]
    NeedsDev,
    /// It cannot be read.
    #[error("{VARIABLE} has {0:?}, which is no point:compute_id or point:compute_id:times")]
    Malformed(String),
}

impl ExitCode for PanicDoorError {
    fn exit_code(&self) -> u8 {
        USAGE
    }
}

/// Panics that are left, by point and compute.
type Armed = BTreeMap<(PanicPoint, ComputeId), u32>;

/// The armed points of this process with the panics that are left. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Panics {
    armed: Option<Arc<Mutex<Armed>>>,
}

impl Panics {
    /// No point is armed.
    #[must_use]
    pub const fn none() -> Self {
        Self { armed: None }
    }

    /// Reads the variable.
    ///
    /// # Errors
    /// It is set without `dev`, or cannot be read.
    pub fn from_env(dev: bool) -> Result<Self, PanicDoorError> {
        match std::env::var(VARIABLE) {
            Ok(list) if !list.is_empty() => Self::parse(&list, dev),
            Ok(_) | Err(_) => Ok(Self::none()),
        }
    }

    /// Arms the points of a comma-separated list.
    ///
    /// # Errors
    /// As for [`Panics::from_env`].
    pub fn parse(list: &str, dev: bool) -> Result<Self, PanicDoorError> {
        if !dev {
            return Err(PanicDoorError::NeedsDev);
        }
        let armed = list.split(',').map(one).collect::<Result<_, _>>()?;
        Ok(Self { armed: Some(Arc::new(Mutex::new(armed))) })
    }

    /// Panics if the point is armed for this compute and not used up.
    pub fn at(&self, point: PanicPoint, compute_id: &ComputeId) {
        let Some(armed) = &self.armed else { return };
        let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
        match armed.get_mut(&(point, compute_id.clone())) {
            None | Some(0) => return,
            Some(left) => *left -= 1,
        }
        drop(armed);
        panic!("{} of {compute_id}, as {VARIABLE} wants", point.as_str());
    }
}

fn one(item: &str) -> Result<((PanicPoint, ComputeId), u32), PanicDoorError> {
    let malformed = || PanicDoorError::Malformed(item.to_owned());
    let mut parts = item.trim().split(':');
    let (point, id) = (parts.next().ok_or_else(malformed)?, parts.next().ok_or_else(malformed)?);
    let times = parts.next().map_or(Ok(u32::MAX), str::parse).map_err(|_| malformed())?;
    if parts.next().is_some() {
        return Err(malformed());
    }
    Ok(((point.parse().map_err(|_| malformed())?, id.parse().map_err(|_| malformed())?), times))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn production_refuses_it() {
        assert_eq!(Panics::parse("in_pass:c1", false).unwrap_err(), PanicDoorError::NeedsDev);
        for bad in ["", "in_pass", "nowhere:c1", "in_pass:c1:x", "in_pass:c1:1:2", "in_pass:"] {
            assert!(matches!(Panics::parse(bad, true), Err(PanicDoorError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn panics_as_often_as_it_is_told() {
        let panics = Panics::parse("in_pass:c1:2, in_probe:c2", true).unwrap();
        let breaks = |point, id: &str| {
            let id: ComputeId = id.parse().unwrap();
            catch_unwind(AssertUnwindSafe(|| panics.at(point, &id))).is_err()
        };
        assert_eq!([(); 3].map(|()| breaks(PanicPoint::InPass, "c1")), [true, true, false]);
        assert_eq!([(); 3].map(|()| breaks(PanicPoint::InProbe, "c2")), [true, true, true]);
        assert!(!breaks(PanicPoint::InProbe, "c1"));
        Panics::none().at(PanicPoint::InPass, &"c1".parse().unwrap());
    }
}
