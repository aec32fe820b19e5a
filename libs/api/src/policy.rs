//! How far the leader may go with a compute by itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When the leader ends a compute that nobody uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuspendPolicy {
    /// Not at all.
    #[default]
    Never,
    /// When it has been idle for the spec's `suspend_timeout_seconds`, if that is above 0.
    WhenIdle,
}

/// The policy of a compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// When it is suspended.
    #[serde(default)]
    pub suspend: SuspendPolicy,
}

/// `PUT /control/v1/compute/{id}/policy`. A field that is left out stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPolicy {
    /// When it is to be suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<SuspendPolicy>,
}

impl PutPolicy {
    /// The policy after this change.
    #[must_use]
    pub fn onto(self, before: Policy) -> Policy {
        Policy { suspend: self.suspend.unwrap_or(before.suspend) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_stays_and_what_is_unknown_is_refused() {
        let read = |text: &str| serde_json::from_str::<PutPolicy>(text);
        let idle = Policy { suspend: SuspendPolicy::WhenIdle };
        assert_eq!(read("{}").unwrap().onto(idle), idle);
        assert_eq!(read(r#"{"suspend": "when_idle"}"#).unwrap().onto(Policy::default()), idle);
        assert_eq!(read(r#"{"suspend": "never"}"#).unwrap().onto(idle), Policy::default());
        for bad in [r#"{"suspend": "sometimes"}"#, r#"{"mode": "pause"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
