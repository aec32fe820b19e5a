//! The answer table: what a candidate makes of what the row's address says.

use std::time::Duration;

use pgfleet_api::controller::{ControllerStatus, Role};
use pgfleet_api::{InstanceId, Term};

/// The leader row as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Term in it.
    pub term: Term,
    /// Who claimed it.
    pub instance_id: InstanceId,
    /// Where that one listens.
    pub address: String,
    /// How often it renewed.
    pub renewals: i64,
    /// Length of its lease.
    pub lease: Duration,
    /// Whether it gave the row up.
    pub released: bool,
}

/// What the row's address says when it is asked for its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The row's instance; it holds its leadership or is about to give it up.
    Holds,
    /// The row's instance; it gave up in favour of somebody, or of anybody.
    SteppedDown {
        /// The only one that may claim at once.
        successor: Option<InstanceId>,
        /// How long the others wait.
        hold: Duration,
    },
    /// Refused, another instance, or my own listener: the row's process is dead.
    Dead,
    /// No proof of anything: only the lease decides.
    Silent,
}

/// What came back from the network, before it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status.
    Status(ControllerStatus),
    /// The port refused.
    Refused,
    /// Time-out, reset, TLS error, garbage.
    Silent,
}

/// Judges a reply against the row it was asked for: the answer table.
#[must_use]
pub fn judge(row: &Row, own_address: &str, reply: &Reply) -> Answer {
    if row.address == own_address {
        return Answer::Dead;
    }
    match reply {
        Reply::Refused => Answer::Dead,
        Reply::Silent => Answer::Silent,
        Reply::Status(status) if status.instance_id != row.instance_id => Answer::Dead,
        Reply::Status(status) => match status.role {
            Role::TakingOver | Role::Leader | Role::Suspended | Role::SteppingDown => Answer::Holds,
            Role::SteppedDown => Answer::SteppedDown {
                successor: status.successor.as_ref().map(|successor| successor.instance_id),
                hold: Duration::from_millis(status.hold_ms.unwrap_or(0)),
            },
            // It lost its term by itself, or has claimed it a moment ago: both end by the lease or by its own claim.
            Role::Candidate => Answer::Silent,
        },
    }
}
