//! How far the leader may go with a compute by itself, and what it was asked to do with it once.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::agent::TerminateMode;
use crate::ids::Generation;

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

/// Whether the leader makes a compute follow its spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It does.
    #[default]
    Active,
    /// Hands off: nothing is pushed, repaired or ended; specs are taken and wait. Its agent is still asked for its status.
    Pause,
    /// It is ended, and ended again whenever its agent comes back with a running PostgreSQL. Once it is active again, it runs
    /// when its agent is started again.
    Stop,
}

impl Mode {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Stop => "stop",
        }
    }
}

/// What is done once with a compute, and then not again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// End it.
    Terminate,
    /// End it, then forget it.
    Delete,
}

impl ActionKind {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "terminate",
            Self::Delete => "delete",
        }
    }
}

/// An action that was asked for and is not done yet. It is an intent: it has a generation of its own, and a later one
/// takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct PendingAction {
    /// What.
    pub action: ActionKind,
    /// How PostgreSQL is stopped.
    #[serde(default)]
    pub mode: TerminateMode,
    /// The generation it took.
    pub generation: Generation,
}

/// The policy of a compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// When it is suspended.
    #[serde(default)]
    pub suspend: SuspendPolicy,
    /// Whether it is made to follow its spec.
    #[serde(default)]
    pub mode: Mode,
    /// What is still to be done with it once; nothing is sent as null.
    #[serde(default)]
    pub pending: Option<PendingAction>,
}

impl Policy {
    /// The action that is still wanted: one whose generation was not passed over.
    #[must_use]
    pub fn wanted(&self, current: Generation) -> Option<PendingAction> {
        self.pending.filter(|action| action.generation == current)
    }
}

/// `PUT /control/v1/compute/{id}/policy`. A field that is left out stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPolicy {
    /// When it is to be suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<SuspendPolicy>,
    /// Whether it is to be made to follow its spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

impl PutPolicy {
    /// The policy after this change.
    #[must_use]
    pub fn onto(self, before: Policy) -> Policy {
        Policy {
            suspend: self.suspend.unwrap_or(before.suspend),
            mode: self.mode.unwrap_or(before.mode),
            // Another mode is another wish: what was to be done once is not done any more.
            pending: before.pending.filter(|_| self.mode.is_none_or(|mode| mode == before.mode)),
        }
    }
}

/// Query of `POST /control/v1/compute/{id}/terminate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminateQuery {
    /// How PostgreSQL is stopped; `immediate` ends the agent at once, too.
    #[serde(default)]
    pub mode: TerminateMode,
}

/// Query of `DELETE /control/v1/compute/{id}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    /// End it before it is forgotten.
    #[serde(default)]
    pub terminate: bool,
}

/// Answer to an action (202): it is in the database and will be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionAccepted {
    /// The generation it took.
    pub generation: Generation,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_stays_and_what_is_unknown_is_refused() {
        let read = |text: &str| serde_json::from_str::<PutPolicy>(text);
        let idle = Policy { suspend: SuspendPolicy::WhenIdle, ..Policy::default() };
        assert_eq!(read("{}").unwrap().onto(idle), idle);
        assert_eq!(read(r#"{"suspend": "when_idle"}"#).unwrap().onto(Policy::default()), idle);
        assert_eq!(read(r#"{"suspend": "never"}"#).unwrap().onto(idle), Policy::default());
        let paused = Policy { mode: Mode::Pause, ..idle };
        assert_eq!(read(r#"{"mode": "pause"}"#).unwrap().onto(idle), paused);
        assert_eq!(read(r#"{"mode": "active"}"#).unwrap().onto(paused), idle);
        for bad in [r#"{"suspend": "sometimes"}"#, r#"{"mode": "halt"}"#, r#"{"pending": null}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_later_generation_takes_the_place_of_an_action() {
        let action =
            PendingAction { action: ActionKind::Terminate, mode: TerminateMode::Fast, generation: Generation(7) };
        let policy = Policy { pending: Some(action), ..Policy::default() };
        assert_eq!(policy.wanted(Generation(7)), Some(action));
        assert_eq!(policy.wanted(Generation(8)), None);
        assert_eq!(PutPolicy { mode: Some(Mode::Active), suspend: None }.onto(policy), policy);
        assert_eq!(PutPolicy { mode: Some(Mode::Pause), suspend: None }.onto(policy).pending, None);
        let text = serde_json::to_string(&Policy::default()).unwrap();
        assert_eq!(text, r#"{"suspend":"never","mode":"active","pending":null}"#, "a merge clears what is null");
    }
}
