//! What a database may lose, as members and agents find it out.
//!
//! A database that fails over to an asynchronous replica, or is put back to an older state, forgets what it had committed.
//! Nothing is unsafe then: terms and generations only have to grow beyond what the others remember. It has to be said.

/// What is missing in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A term that this member has seen in the leader row.
    Term,
    /// Changes that this member has committed or followed.
    Changes,
    /// The whole server: another system identifier, or another fleet's tables.
    Identity,
    /// A term that an agent has seen.
    AgentTerm,
    /// A generation that an agent has.
    AgentGeneration,
    /// The content that an agent has under the database's generation.
    AgentContent,
}

impl What {
    /// A word for logs and the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Changes => "changes",
            Self::Identity => "identity",
            Self::AgentTerm => "agent_term",
            Self::AgentGeneration => "agent_generation",
            Self::AgentContent => "agent_content",
        }
    }
}
