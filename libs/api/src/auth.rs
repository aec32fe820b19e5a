//! What a bearer token claims. Tokens are EdDSA JWTs; `exp` is required.

use serde::{Deserialize, Serialize};

use crate::ids::ComputeId;

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Everything an operator may do.
    #[serde(rename = "admin")]
    Admin,
    /// Register, change and read computes.
    #[serde(rename = "infra")]
    Infra,
    /// One controller to another: `step_down`.
    #[serde(rename = "controller_peer")]
    ControllerPeer,
    /// One compute: its own pull and report, and on its own agent everything but administration.
    #[serde(rename = "compute")]
    Compute,
    /// Read only.
    #[serde(rename = "viewer")]
    Viewer,
    /// A controller to an agent, in the reference's form: needs `aud` to contain [`AGENT_AUDIENCE`].
    #[serde(rename = "compute_ctl:admin")]
    AgentAdmin,
}

/// The audience that a [`Scope::AgentAdmin`] token must name.
pub const AGENT_AUDIENCE: &str = "compute";

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// What it allows. Absent in the reference's tokens for one compute, which count as [`Scope::Compute`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Seconds since the epoch after which it is refused.
    pub exp: u64,
    /// Whom it is meant for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    /// The compute it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_id: Option<ComputeId>,
    /// Who holds it, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
}
