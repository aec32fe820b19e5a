//! Header names of our own. All lower case, as HTTP/2 wants them.

/// `no` on an answer that proves the request was not executed, so that a client may send it again elsewhere.
pub const EXECUTED: &str = "x-pgfleet-executed";
/// The id of a request: taken from the caller or minted, echoed, and logged by every member it passes.
pub const REQUEST_ID: &str = "x-request-id";
/// A peer's probe names itself by these three, so that the leader can list the cluster's members.
pub const MEMBER_INSTANCE: &str = "x-pgfleet-instance";
/// Address under which the probing member is reached.
pub const MEMBER_ADDRESS: &str = "x-pgfleet-address";
/// Program version of the probing member.
pub const MEMBER_VERSION: &str = "x-pgfleet-version";
/// Change that the probing member's memory has reached.
pub const MEMBER_CHANGE_SEQ: &str = "x-pgfleet-change-seq";
/// Set by a member that hands a request on: whoever gets it executes it or says at once that it did not.
pub const HOP: &str = "x-pgfleet-hop";
/// Why an operator does something; it goes into the journal.
pub const REASON: &str = "x-reason";
