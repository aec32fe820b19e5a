//! The proof of leadership.
//!
//! Called by: everything that writes or pushes. Invariant: only a committed claim of this process makes one
//! (`lease`), it cannot be cloned, and a [`Fence`] comes from nowhere else.

use pgfleet_api::{ClusterId, ComputeId, Fence, Generation, InstanceId, SpecHash, Term};

/// One leadership of this process. Share it by `Arc`; the leader value ends only after every clone of it is gone.
#[derive(Debug)]
pub struct LeaderTerm {
    term: Term,
    cluster_id: ClusterId,
    instance_id: InstanceId,
}

impl LeaderTerm {
    pub(crate) fn mint(term: Term, cluster_id: ClusterId, instance_id: InstanceId) -> Self {
        Self { term, cluster_id, instance_id }
    }

    /// The number of this leadership.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The fleet that is led.
    #[must_use]
    pub const fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The process that leads: this one.
    #[must_use]
    pub const fn instance_id(&self) -> InstanceId {
        self.instance_id
    }

    /// What a push or pull of a committed intent carries.
    #[must_use]
    pub fn fence(&self, compute_id: &ComputeId, generation: Generation, spec_hash: &SpecHash) -> Fence {
        Fence {
            cluster_id: self.cluster_id,
            compute_id: compute_id.clone(),
            term: self.term,
            generation,
            spec_hash: spec_hash.clone(),
        }
    }
}

/// First statement of every fenced transaction: parameters are term and instance, the answer is the transaction's
/// time. No row: this is not the leader any more. The lock is what a claim waits for (see `create_leader`).
pub(crate) const FENCE: &str =
    "SELECT now() FROM leader WHERE term = $1 AND instance_id = $2 AND released_at IS NULL FOR KEY SHARE";
