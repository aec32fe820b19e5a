//! What a history is made of: one JSON object per line, in the order in which the recorder saw it.

use pgfleet_api::agent::ComputeState;
use pgfleet_api::controller::Role;
use pgfleet_api::{BootId, ClusterId, ComputeId, Generation, InstanceId, SpecHash, Term};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The recorder's own monotonic clock, in microseconds since the recording began. Entries are in this order.
    pub at_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a client asks about the spec of one compute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// Writes this spec.
    Write {
        /// Hash of the content.
        spec_hash: SpecHash,
    },
    /// Reads the spec there is.
    Read,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The write is acknowledged.
    Written {
        /// Under this generation.
        generation: Generation,
    },
    /// What was read.
    Read {
        /// Its generation.
        generation: Generation,
        /// Its hash.
        spec_hash: SpecHash,
    },
    /// It is known not to have been executed.
    Refused {
        /// HTTP status; 0: no connection.
        status: u16,
        /// The stable code.
        code: Option<String>,
    },
    /// It may have been executed, now or later.
    Unknown {
        /// In words.
        why: String,
    },
}

/// What a history tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first line.
    Begun {
        /// What reproduces the schedule.
        seed: Option<u64>,
        /// The fleet, once it is known.
        cluster_id: Option<ClusterId>,
    },
    /// A spec that was there before the recording began, so that no call in it explains it.
    Given {
        /// The compute.
        compute_id: ComputeId,
        /// The generation at that time.
        generation: Generation,
        /// Its hash.
        spec_hash: SpecHash,
    },
    /// A client sent a call.
    Called {
        /// Pairs the call with its answer.
        op: u64,
        /// Who asked; a client asks one thing at a time.
        client: u32,
        /// About whom.
        compute_id: ComputeId,
        /// What.
        #[serde(flatten)]
        call: Call,
    },
    /// A call ended.
    Answered {
        /// Of which call.
        op: u64,
        /// How.
        #[serde(flatten)]
        answer: Answer,
    },
    /// A term as the database's history has it. Told again when it changed.
    TermSeen {
        /// Its number.
        term: Term,
        /// Its owner.
        instance_id: InstanceId,
        /// How it began.
        began: String,
        /// How it ended.
        ended: Option<String>,
    },
    /// A member showed itself.
    MemberSeen {
        /// Who.
        instance_id: InstanceId,
        /// As what.
        role: Role,
        /// The term it holds or held.
        term: Option<Term>,
    },
    /// A row of the fleet was changed, seen from within the database: what the transaction found in the leader row.
    RowWritten {
        /// The table.
        table: String,
        /// Who wrote, from the session's application name.
        writer: String,
        /// The leader row's owner at that moment.
        leader: InstanceId,
        /// Its term.
        term: Term,
        /// Whether the row was released.
        released: bool,
    },
    /// A line of the journal, in the order of `change_seq`.
    Journalled {
        /// Its place in the order of all changes.
        change_seq: i64,
        /// Whom it is about; none: the fleet.
        #[serde(default)]
        compute_id: Option<ComputeId>,
        /// The term that wrote it.
        term: Term,
        /// The word of its kind. Generations are compared within one kind: an agent may be behind what was asked.
        kind: String,
        /// The generation it tells of, if it tells of one.
        #[serde(default)]
        generation: Option<Generation>,
        /// Content of that generation.
        #[serde(default)]
        spec_hash: Option<SpecHash>,
        /// Whether it tells of committed work that the database had lost.
        #[serde(default)]
        lost_commit: bool,
    },
    /// An agent showed itself.
    AgentSeen {
        /// The compute.
        compute_id: ComputeId,
        /// This life of the agent.
        boot_id: BootId,
        /// Grows with every change in one life.
        status_seq: u64,
        /// State of the machine.
        state: ComputeState,
        /// Highest term it has promised to.
        term: Option<Term>,
        /// Highest generation accepted.
        generation: Option<Generation>,
        /// In effect.
        applied_generation: Option<Generation>,
        /// Given up.
        rejected_generation: Option<Generation>,
        /// Of what it accepted.
        spec_hash: Option<SpecHash>,
    },
    /// A fault begins, or happens at once.
    Fault {
        /// Its kind, a stable word.
        kind: String,
        /// To whom, in words.
        target: String,
    },
    /// A fault that lasted is over.
    FaultEnded {
        /// Its kind.
        kind: String,
        /// To whom.
        target: String,
    },
    /// A process stood still at a named point.
    PausePoint {
        /// The point.
        name: String,
        /// Which process.
        target: String,
    },
    /// The database was put back on purpose: what was acknowledged since `since_us` may be gone, and terms may repeat.
    CommitsLost {
        /// When the copy was taken, on the recorder's clock.
        since_us: u64,
    },
    /// What the database has at the end, after everything was healed.
    Final {
        /// The compute.
        compute_id: ComputeId,
        /// What was asked.
        generation: Generation,
        /// Its hash.
        spec_hash: SpecHash,
        /// What its agent has in effect.
        applied_generation: Option<Generation>,
        /// Whether the last spec was given up for its content.
        rejected: bool,
    },
    /// What was left behind when every process had ended, in words: sessions, locks, tasks. Empty is good.
    Leftovers {
        /// Each.
        found: Vec<String>,
    },
    /// The recording ended in order; a history without it was cut.
    Ended,
}
