//! How many connections the process can hold.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are no connections of agents: the log, listeners, the runtime, the control door.
const RESERVE: u64 = 128;

/// Raises the soft limit on descriptors to the hard one, and gives how many connections fit.
#[must_use]
pub fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!("the limit on descriptors stays: {error}");
    }
    // None is no limit.
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = descriptors.saturating_sub(RESERVE).max(RESERVE);
    tracing::info!(descriptors, connections, "the limit on descriptors allows {connections} connections at once");
    usize::try_from(connections).unwrap_or(usize::MAX)
}
