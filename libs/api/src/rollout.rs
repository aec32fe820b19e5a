//! What is said and read about roll-outs: one change of specs for many computes, in waves.
//!
//! Over 500 lines, because it is the whole contract of one noun: a page of types that nobody reads in parts.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::ids::{ComputeId, Generation, RolloutId};

/// `POST /control/v1/rollout`. The same body under the same `rollout_id` again answers with the roll-out that there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// Its name; one is made if it is left out, and then a request that is sent twice starts two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_id: Option<RolloutId>,
    /// Which computes.
    pub selector: Selector,
    /// What changes in their specs.
    pub patch: SpecPatch,
    /// How carefully.
    #[serde(default)]
    pub strategy: RolloutStrategy,
}

/// Query of `POST /control/v1/rollout`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRolloutQuery {
    /// Write nothing: say who would be touched, and in which wave.
    #[serde(default)]
    pub dry_run: bool,
}

/// Computes by their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// A compute has all of these.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Every compute; then there are no labels.
    #[serde(default)]
    pub all: bool,
}

/// A change of a spec's settings, roles and databases. What it does not name stays.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpecPatch {
    /// Settings by name: text, a number or a boolean; null takes the setting out of the spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Object>)]
    pub settings: BTreeMap<String, Value>,
    /// Roles as in a spec, by `name`: added, or merged field by field into the one that is there (null takes a field out).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub roles: Vec<Value>,
    /// Roles that leave the spec. In PostgreSQL they stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_roles: Vec<String>,
    /// Databases as in a spec, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub databases: Vec<Value>,
    /// Databases that leave the spec. In PostgreSQL they stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_databases: Vec<String>,
}

/// A role of a patch may hold a verifier.
impl fmt::Debug for SpecPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpecPatch")
            .field("settings", &self.settings.keys().collect::<Vec<_>>())
            .field("roles", &self.roles.len())
            .field("remove_roles", &self.remove_roles)
            .field("databases", &self.databases.len())
            .field("remove_databases", &self.remove_databases)
            .finish()
    }
}

/// A number of computes, or a share of those that the roll-out changes, like `"10%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawAmount", into = "RawAmount")]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred, 1 to 100.
    Percent(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawAmount {
    Count(u32),
    Text(String),
}

impl TryFrom<RawAmount> for Amount {
    type Error = String;

    fn try_from(raw: RawAmount) -> Result<Self, String> {
        match raw {
            RawAmount::Count(count) => Ok(Self::Count(count)),
            RawAmount::Text(text) => text.parse(),
        }
    }
}

impl From<Amount> for RawAmount {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(count) => Self::Count(count),
            Amount::Percent(_) => Self::Text(amount.to_string()),
        }
    }
}

impl std::str::FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || "a number of computes, or 1% to 100%".to_owned();
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Count).map_err(|_| rule()),
            Some(share) => match share.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(rule()),
            },
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Amount {
    /// How many of `total` that is; a share is rounded down, and is at least one.
    #[must_use]
    pub fn of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let share = u64::from(total) * u64::from(percent) / 100;
                u32::try_from(share).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

/// How carefully a roll-out goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutStrategy {
    /// Computes that are changed first; 0: none. Default 1.
    #[schema(value_type = String, example = "10%")]
    pub canary: Amount,
    /// Computes of each later wave. Default 10%.
    #[schema(value_type = String, example = "10%")]
    pub wave: Amount,
    /// Computes that may at one time be changed and not healthy; failed ones count. Default 5%.
    #[schema(value_type = String, example = "10%")]
    pub max_unavailable: Amount,
    /// Seconds for which a finished wave must stay healthy before the next one begins. Default 30.
    pub soak_s: u32,
    /// Seconds in which a changed compute must have applied its spec and run. Default 120.
    pub gate_timeout_s: u32,
    /// Computes that may fail; one more halts the roll-out. Below `max_unavailable`. Default 0.
    pub error_budget: u32,
}

impl Default for RolloutStrategy {
    fn default() -> Self {
        Self {
            canary: Amount::Count(1),
            wave: Amount::Percent(10),
            max_unavailable: Amount::Percent(5),
            soak_s: 30,
            gate_timeout_s: 120,
            error_budget: 0,
        }
    }
}

/// Where a roll-out stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutPhase {
    /// Accepted; nothing is touched yet.
    Pending,
    /// The first few are changed.
    Canary,
    /// A wave is through and is watched for a while.
    Soaking,
    /// A later wave is changed.
    Waving,
    /// An operator stopped it; what was touched is still watched.
    Paused,
    /// It stopped by itself; `halted` says why.
    Halted,
    /// The changed computes get their previous specs.
    RollingBack,
    /// They have them, but for those that `counts` and `troubles` name.
    RolledBack,
    /// All are changed, or are named.
    Done,
    /// An operator ended it; what was touched stays as it is.
    Aborted,
    /// One that this reader does not know.
    #[serde(other)]
    Unknown,
}

impl RolloutPhase {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Canary => "canary",
            Self::Soaking => "soaking",
            Self::Waving => "waving",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        }
    }

    /// Whether nothing more happens by itself or by `resume`.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::RolledBack | Self::Done | Self::Aborted)
    }
}

/// What an operator may ask of a roll-out; each is a route of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutCommand {
    /// Touch nothing more for now.
    Pause,
    /// Go on; after a halt, what failed is given up.
    Resume,
    /// End it and leave everything as it is.
    Abort,
    /// Give every compute that has our spec its previous one.
    Rollback,
}

impl RolloutCommand {
    /// The word in routes and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Rollback => "rollback",
        }
    }
}

/// Where one compute of a roll-out stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetPhase {
    /// Not touched yet.
    Waiting,
    /// Its new spec is in the database; it is not healthy yet.
    InFlight,
    /// It has applied its new spec and runs.
    Healthy,
    /// It did not become healthy, or fell ill while its wave was watched.
    Failed,
    /// It failed, and an operator let the roll-out go on.
    GivenUp,
    /// Its spec with this patch is refused by a rule; it was not touched.
    Refused,
    /// It was left out; `error` says why.
    Skipped,
    /// It was so already.
    Unchanged,
    /// Its previous spec is in the database; it is not healthy yet.
    Returning,
    /// It has applied its previous spec and runs.
    Restored,
    /// Its previous spec is in the database and it does not become healthy with it.
    Unrestored,
    /// The same, and an operator let the roll-back go on.
    Abandoned,
    /// Somebody else changed or deleted it since; it was left as it is.
    Overtaken,
    /// One that this reader does not know.
    #[serde(other)]
    Unknown,
}

impl TargetPhase {
    /// Those that there are.
    pub const ALL: [Self; 13] = [
        Self::Waiting,
        Self::InFlight,
        Self::Healthy,
        Self::Failed,
        Self::GivenUp,
        Self::Refused,
        Self::Skipped,
        Self::Unchanged,
        Self::Returning,
        Self::Restored,
        Self::Unrestored,
        Self::Abandoned,
        Self::Overtaken,
    ];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InFlight => "in_flight",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
            Self::Unchanged => "unchanged",
            Self::Returning => "returning",
            Self::Restored => "restored",
            Self::Unrestored => "unrestored",
            Self::Abandoned => "abandoned",
            Self::Overtaken => "overtaken",
            Self::Unknown => "unknown",
        }
    }

    /// Whether an operator may want to read about it.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        match self {
            Self::Failed | Self::GivenUp | Self::Refused | Self::Skipped => true,
            Self::Unrestored | Self::Abandoned | Self::Overtaken => true,
            Self::Waiting | Self::InFlight | Self::Healthy | Self::Unchanged => false,
            Self::Returning | Self::Restored | Self::Unknown => false,
        }
    }
}

/// What the amounts of a strategy came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPlan {
    /// Computes that it changes.
    pub computes: u32,
    /// How many of them come first.
    pub canary: u32,
    /// Computes of each later wave.
    pub wave: u32,
    /// How many waves there are, the canary's included.
    pub waves: u32,
    /// Computes that may at one time be changed and not healthy.
    pub max_unavailable: u32,
    /// Computes that may fail.
    pub error_budget: u32,
    /// Seconds of watching between waves.
    pub soak_s: u32,
    /// Seconds to become healthy.
    pub gate_timeout_s: u32,
}

/// A roll-out: what was asked for and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Its name.
    pub rollout_id: RolloutId,
    /// Where it stands.
    pub phase: RolloutPhase,
    /// The phase that `resume` goes back to, while it is paused or halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<RolloutPhase>,
    /// Why it halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// Number of the current wave; 0 is the canary's.
    pub wave: u32,
    /// What the strategy came to.
    pub plan: RolloutPlan,
    /// Computes by [`TargetPhase`]; a phase that no compute is in is left out.
    pub counts: BTreeMap<TargetPhase, u32>,
    /// Computes that were selected, all together.
    pub selected: u32,
    /// Which computes.
    pub selector: Selector,
    /// What changes.
    pub patch: SpecPatch,
    /// How carefully.
    pub strategy: RolloutStrategy,
    /// Who started it.
    pub started_by: String,
    /// Why, if it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was started, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// When its phase last changed.
    pub updated_at: DateTime<Utc>,
    /// Computes that an operator may want to read about, at most 100; empty in a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<RolloutCompute>,
}

/// One compute of a roll-out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutCompute {
    /// Its name.
    pub compute_id: ComputeId,
    /// Its place in the order, from 0.
    pub ordinal: u32,
    /// Its wave; 0 is the canary's. None: it is in none.
    pub wave: Option<u32>,
    /// Where it stands.
    pub phase: TargetPhase,
    /// Its generation before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_generation: Option<Generation>,
    /// The generation of its new spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The generation under which it got its previous spec back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_generation: Option<Generation>,
    /// Why it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Query of `GET /control/v1/rollout`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutListQuery {
    /// Page size, 1 to 1000; default 100.
    pub limit: Option<u32>,
    /// Begin after this one.
    pub cursor: Option<RolloutId>,
}

/// One page of `GET /control/v1/rollout`, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutList {
    /// The roll-outs of this page.
    pub rollouts: Vec<RolloutView>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<RolloutId>,
}

/// Query of `GET /control/v1/rollout/{rollout_id}/compute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutComputesQuery {
    /// Only those that stand here.
    pub phase: Option<TargetPhase>,
    /// Page size, 1 to 1000; default 100.
    pub limit: Option<u32>,
    /// Begin after this ordinal.
    pub cursor: Option<u32>,
}

/// One page of the computes of a roll-out, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutComputes {
    /// The computes of this page.
    pub computes: Vec<RolloutCompute>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<u32>,
}

/// Answer of a dry run: who would be touched, and in which wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPreview {
    /// What the strategy comes to.
    pub plan: RolloutPlan,
    /// All computes that are selected, in the order in which they would be touched.
    pub computes: Vec<RolloutCompute>,
}

/// Answer of `POST /control/v1/rollout`: the roll-out, or what it would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum RolloutStarted {
    /// It is in the database.
    Started(Box<RolloutView>),
    /// A dry run.
    Preview(RolloutPreview),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_counts_or_shares_of_at_least_one() {
        let read = |text: &str| serde_json::from_str::<Amount>(text);
        assert_eq!(read("7").unwrap(), Amount::Count(7));
        assert_eq!(read(r#""10%""#).unwrap(), Amount::Percent(10));
        assert_eq!(read(r#""7""#).unwrap(), Amount::Count(7));
        for bad in ["-1", r#""0%""#, r#""101%""#, r#""x""#, "1.5", "null"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!((Amount::Percent(10).of(5), Amount::Percent(10).of(205), Amount::Count(0).of(5)), (1, 20, 0));
        assert_eq!(serde_json::to_string(&Amount::Percent(10)).unwrap(), r#""10%""#);
    }

    #[test]
    fn debug_shows_no_secret() {
        let patch: SpecPatch =
            serde_json::from_str(r#"{"roles": [{"name": "a", "encrypted_password": "md5secret"}]}"#).unwrap();
        assert!(!format!("{patch:?}").contains("secret"));
        assert!(serde_json::from_str::<SpecPatch>(r#"{"extensions": []}"#).is_err());
    }

    #[test]
    fn words_are_those_of_the_wire() {
        for phase in TargetPhase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
        assert_eq!(serde_json::from_str::<RolloutPhase>(r#""later""#).unwrap(), RolloutPhase::Unknown);
    }
}
