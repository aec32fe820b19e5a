//! Whether a compute can be worked with.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a compute's agent answers the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// It answers.
    Active,
    /// It was not heard of yet, or its PostgreSQL is on its way up.
    WarmingUp,
    /// It has not answered for long.
    Offline,
}

impl Availability {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::WarmingUp, Self::Offline];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::WarmingUp => "warming_up",
            Self::Offline => "offline",
        }
    }
}
