//! What one agent was asked since the last reset, in as few bytes as will do.

use pgfleet_api::ErrorCode;

use super::Micros;

/// The codes that are counted for each agent; what is not here is counted as the last.
pub const CODES: [ErrorCode; 16] = [
    ErrorCode::NotJson,
    ErrorCode::InvalidBody,
    ErrorCode::InvalidRequest,
    ErrorCode::UnknownRoute,
    ErrorCode::MethodNotAllowed,
    ErrorCode::PayloadTooLarge,
    ErrorCode::Unauthorized,
    ErrorCode::Forbidden,
    ErrorCode::ForeignCluster,
    ErrorCode::WrongCompute,
    ErrorCode::StaleTerm,
    ErrorCode::StaleGeneration,
    ErrorCode::FenceConflict,
    ErrorCode::FenceRequired,
    ErrorCode::InvalidState,
    ErrorCode::Unknown,
];

/// Counters of one agent. Times are microseconds since the process started; 0 is never.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Connections accepted.
    pub connects: u32,
    /// `GET /status`.
    pub probes: u32,
    /// `POST /configure` and `/spec` that reached the agent.
    pub pushes: u32,
    /// Those that were taken anew.
    pub accepted: u32,
    /// Those that had been taken before.
    pub repeated: u32,
    /// `POST /plan`.
    pub plans: u32,
    /// `POST /terminate`.
    pub terminations: u32,
    /// Specs in effect.
    pub applied: u32,
    /// Specs that could not be applied.
    pub failed: u32,
    /// Refusals, by [`CODES`].
    pub refused: [u16; CODES.len()],
    /// The first push.
    pub first_push: Micros,
    /// The last push.
    pub last_push: Micros,
    /// When a spec was in effect last.
    pub last_applied: Micros,
}

impl Tally {
    /// A push arrived.
    pub fn pushed(&mut self, now: Micros) {
        self.pushes += 1;
        self.last_push = now;
        if self.first_push == 0 {
            self.first_push = now;
        }
    }

    /// An error was answered.
    pub fn refused(&mut self, code: ErrorCode) {
        let at = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1);
        self.refused[at] = self.refused[at].saturating_add(1);
    }

    pub(super) fn applied(&mut self, at: Micros) {
        self.applied += 1;
        self.last_applied = at;
    }

    pub(super) fn failed(&mut self) {
        self.failed += 1;
    }
}
