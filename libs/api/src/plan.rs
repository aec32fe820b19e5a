//! What applying a spec would do: `POST /plan` of the agent, and the dry run of the controller's bulk upsert.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ErrorCode;
use crate::spec::RestartPolicy;

/// What applying a spec comes to, the strongest thing that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanVerdict {
    /// Nothing changes: no statement is sent and no setting gets another value.
    NoOp,
    /// It is done while PostgreSQL serves: statements, settings that a reload brings into effect. No session is cut.
    Reload,
    /// A part of it needs a restart of PostgreSQL, or its first start. Whether the agent does it by itself is
    /// `restart_policy`.
    Restart,
    /// It would be refused, and nothing done.
    Refused,
}

impl PlanVerdict {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoOp => "no_op",
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Refused => "refused",
        }
    }
}

/// What a line of the bulk upsert would come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DryVerdict {
    /// Nothing would change.
    NoOp,
    /// [`PlanVerdict::Reload`] at the agent.
    Reload,
    /// [`PlanVerdict::Restart`] at the agent.
    Restart,
    /// The compute is not known and would be registered; its agent is not asked.
    Create,
    /// The agent cannot be asked; the error says why.
    Unknown,
    /// The line, or the spec at the agent, would be refused.
    Refused,
}

impl DryVerdict {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoOp => "no_op",
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Create => "create",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
        }
    }
}

impl From<PlanVerdict> for DryVerdict {
    fn from(verdict: PlanVerdict) -> Self {
        match verdict {
            PlanVerdict::NoOp => Self::NoOp,
            PlanVerdict::Reload => Self::Reload,
            PlanVerdict::Restart => Self::Restart,
            PlanVerdict::Refused => Self::Refused,
        }
    }
}

/// What it takes to bring one setting into effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettingClass {
    /// The server has this value, perhaps written in another way.
    NoOp,
    /// A reload.
    Reload,
    /// A restart.
    Restart,
    /// PostgreSQL refuses it.
    Invalid,
}

impl SettingClass {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoOp => "no_op",
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Invalid => "invalid",
        }
    }
}

/// One object that would be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedChange {
    /// Part of the application, like `roles` or `databases`.
    pub phase: String,
    /// Name of the role, database or extension.
    pub object: String,
    /// What is done to it, in words; never a verifier.
    pub words: String,
}

/// One setting that the spec has, or had and has no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedSetting {
    /// Lower-case name.
    pub name: String,
    /// What it takes.
    pub class: SettingClass,
    /// The value now; absent where it cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The value asked for; absent where the spec drops the setting and it goes back to what PostgreSQL's own files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What there is to say: PostgreSQL's own reason where it refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
}

/// Why the spec would be refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanRefusal {
    /// What `POST /configure` would answer.
    pub code: ErrorCode,
    /// Path of the field, counted from the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why, in one line.
    pub msg: String,
}

/// Answer of `POST /plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanResponse {
    /// The whole.
    pub verdict: PlanVerdict,
    /// What the spec allows the agent to do about settings that need a restart.
    #[schema(value_type = String)]
    pub restart_policy: RestartPolicy,
    /// Whether PostgreSQL runs and was asked.
    pub running: bool,
    /// Client sessions that a restart now would cut.
    pub connections: u32,
    /// Objects that would be changed, in the order of the work.
    pub changes: Vec<PlannedChange>,
    /// Settings of the spec, and those it drops, by name.
    pub settings: Vec<PlannedSetting>,
    /// Why it would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<PlanRefusal>,
    /// Fields of the spec that this agent does not act on.
    pub ignored_fields: Vec<String>,
    /// What else there is to know, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
