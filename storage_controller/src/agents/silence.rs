//! Whether a call that failed says that nobody is there.

use pgfleet_clients::agent::AgentError;

/// Whether nobody answered. `None`: nobody was asked.
#[must_use]
pub fn is_silence(error: &AgentError) -> Option<bool> {
    match error {
        // A connection that breaks before the answer is a process that dies.
        AgentError::Unreachable { .. } | AgentError::Timeout { .. } | AgentError::Garbled { status: None, .. } => {
            Some(true)
        }
        AgentError::Refused { .. } | AgentError::Unauthorized { .. } | AgentError::Garbled { .. } => Some(false),
        AgentError::Token { .. } => None,
    }
}
