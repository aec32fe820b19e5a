//! Ids and counters as newtypes, so that a term is never mistaken for a generation, and the [`Fence`] made of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Why a text is not an id; one line for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidId {
    what: &'static str,
    rule: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a valid {}: {}", self.what, self.rule)
    }
}

impl std::error::Error for InvalidId {}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random id.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| InvalidId { what: stringify!($name), rule: "it must be a UUID" })
            }
        }
    };
}

uuid_id!(
    /// One life of one controller process. A restart makes a new one: identity is the process, never its address.
    InstanceId
);
uuid_id!(
    /// One fleet: minted by the first boot on an empty database and carried by every [`Fence`].
    ClusterId
);
uuid_id!(
    /// One life of one agent process; with `status_seq` it orders what the agent says about itself.
    BootId
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// The counter as the database stores it.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }

            /// The following value.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// The growing number of a leadership and the fencing token of everything a leader does. The first is 1.
    Term
);
counter!(
    /// The counter of a compute's spec. The first spec is 1; 0 stands for a compute without a spec.
    Generation
);

/// The name of a compute: 1 to 63 bytes of ASCII letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
///
/// It is a path segment, a metric-free log field and a directory name, so it is this narrow on purpose. A clone shares its
/// text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct ComputeId(Arc<str>);

impl ComputeId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ComputeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if starts_well && text.len() <= 63 && text.bytes().all(allowed) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidId {
                what: "compute id",
                rule: "use 1 to 63 letters, digits, '-', '_' or '.', the first a letter or digit",
            })
        }
    }
}

impl TryFrom<String> for ComputeId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ComputeId> for String {
    fn from(id: ComputeId) -> String {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for ComputeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a roll-out: the same letters as a [`ComputeId`], chosen by whoever starts it, so that a request that is sent
/// twice starts one roll-out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
pub struct RolloutId(String);

impl RolloutId {
    /// A new random name.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RolloutId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.parse::<ComputeId>() {
            Ok(name) => Ok(Self(name.into())),
            Err(InvalidId { rule, .. }) => Err(InvalidId { what: "roll-out id", rule }),
        }
    }
}

impl TryFrom<String> for RolloutId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RolloutId> for String {
    fn from(id: RolloutId) -> String {
        id.0
    }
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a spec's JSON with sorted keys, in 64 lower-case hex digits.
///
/// Made once, when the generation is minted; from then on compared as a value. Nobody serialises a spec again to check it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct SpecHash([u8; 64]);

impl SpecHash {
    /// The hash as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Hex digits always are.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for SpecHash {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match <[u8; 64]>::try_from(text.as_bytes()) {
            Ok(digits) if digits.iter().copied().all(hex) => Ok(Self(digits)),
            _ => Err(InvalidId { what: "spec hash", rule: "it must be 64 lower-case hex digits" }),
        }
    }
}

impl TryFrom<String> for SpecHash {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<SpecHash> for String {
    fn from(hash: SpecHash) -> String {
        hash.as_str().to_owned()
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpecHash({})", self.as_str())
    }
}

/// Carried by everything that can change a compute. The agent's rule on it is `domain::fence::admit`.
///
/// On the controller's side it is made only from a `LeaderTerm`, so it always names a committed intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The fleet that asks.
    pub cluster_id: ClusterId,
    /// The compute that is meant.
    pub compute_id: ComputeId,
    /// The leadership that asks.
    pub term: Term,
    /// The counter of the spec.
    pub generation: Generation,
    /// The content of the spec under that counter.
    pub spec_hash: SpecHash,
}

/// The highest term and generation an agent has durably seen; answered with a refusal so that the caller can catch up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceMark {
    /// Highest term in the ledger.
    pub term: Term,
    /// Highest generation in the ledger.
    pub generation: Generation,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compute_id_is_a_safe_path_segment() {
        for good in ["a", "no-compute", "orders_1.eu", "9", &"x".repeat(63)] {
            assert!(good.parse::<ComputeId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<ComputeId>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<ComputeId>("\"a/b\"").is_err());
    }

    #[test]
    fn a_spec_hash_is_64_lower_case_hex_digits() {
        assert!("0".repeat(64).parse::<SpecHash>().is_ok());
        for bad in ["", "0", &"A".repeat(64), &"g".repeat(64), &"0".repeat(65)] {
            assert!(bad.parse::<SpecHash>().is_err(), "{bad}");
        }
    }
}
