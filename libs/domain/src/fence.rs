//! The rule of the agent's ledger: which fenced request may change a compute.
//!
//! Called by the agent for every fenced request and by the fleet's simulators. Safety never depends on time: a leader that
//! lost its term is refused here however late its push arrives.

use pgfleet_api::{ClusterId, ComputeId, Fence, FenceMark, Generation, SpecHash, Term};
use serde::{Deserialize, Serialize};

/// What an agent has durably promised: it will take nothing older than this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// The fleet it belongs to.
    pub cluster_id: ClusterId,
    /// The compute it owns.
    pub compute_id: ComputeId,
    /// Highest term seen, also by requests that were refused for another reason.
    pub term: Term,
    /// Highest generation accepted.
    pub generation: Generation,
    /// Content of that generation.
    pub spec_hash: SpecHash,
}

impl LedgerRecord {
    /// What a refused caller is told.
    #[must_use]
    pub fn mark(&self) -> FenceMark {
        FenceMark { term: self.term, generation: self.generation }
    }
}

/// What to do with a fenced request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New: make the record durable, then act.
    Accept,
    /// Already accepted: answer as done, do nothing again, also when it was rejected.
    AlreadyAccepted,
    /// Do nothing but keep the record, if there is a new one.
    Refuse(Refusal),
}

/// Why a fenced request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another fleet's.
    ForeignCluster,
    /// Meant for another compute.
    WrongCompute,
    /// From a leadership that has ended.
    StaleTerm,
    /// A spec older than the accepted one.
    StaleGeneration,
    /// The accepted generation with other content.
    Conflict,
}

/// A verdict and what has to be durable before anything is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// What to do.
    pub verdict: Verdict,
    /// The new record, where the request changes it. A higher term is kept even by a refusal.
    pub record: Option<LedgerRecord>,
}

impl Admission {
    fn refuse(refusal: Refusal) -> Self {
        Self { verdict: Verdict::Refuse(refusal), record: None }
    }
}

/// Judges `fence` against the ledger of the agent that owns `own`.
///
/// The order of the checks is part of the contract: cluster, compute, term, generation, content.
#[must_use]
pub fn admit(own: &ComputeId, ledger: Option<&LedgerRecord>, fence: &Fence) -> Admission {
    if ledger.is_some_and(|known| known.cluster_id != fence.cluster_id) {
        return Admission::refuse(Refusal::ForeignCluster);
    }
    if fence.compute_id != *own {
        return Admission::refuse(Refusal::WrongCompute);
    }
    let Some(known) = ledger else {
        return Admission { verdict: Verdict::Accept, record: Some(accepted(fence)) };
    };
    if fence.term < known.term {
        return Admission::refuse(Refusal::StaleTerm);
    }
    let raised = (fence.term > known.term).then(|| LedgerRecord { term: fence.term, ..known.clone() });
    if fence.generation < known.generation {
        return Admission { verdict: Verdict::Refuse(Refusal::StaleGeneration), record: raised };
    }
    if fence.generation > known.generation {
        return Admission { verdict: Verdict::Accept, record: Some(accepted(fence)) };
    }
    let verdict =
        if fence.spec_hash == known.spec_hash { Verdict::AlreadyAccepted } else { Verdict::Refuse(Refusal::Conflict) };
    Admission { verdict, record: raised }
}

fn accepted(fence: &Fence) -> LedgerRecord {
    LedgerRecord {
        cluster_id: fence.cluster_id,
        compute_id: fence.compute_id.clone(),
        term: fence.term,
        generation: fence.generation,
        spec_hash: fence.spec_hash.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own() -> ComputeId {
        "orders".parse().unwrap()
    }

    fn cluster(n: u128) -> ClusterId {
        ClusterId(uuid::Uuid::from_u128(n))
    }

    fn hash(c: char) -> SpecHash {
        c.to_string().repeat(64).parse().unwrap()
    }

    fn fence(term: i64, generation: i64, content: char) -> Fence {
        Fence {
            cluster_id: cluster(1),
            compute_id: own(),
            term: Term(term),
            generation: Generation(generation),
            spec_hash: hash(content),
        }
    }

    #[test]
    fn the_decision_table() {
        let known = accepted(&fence(5, 7, 'a'));
        let refuse = |r| Verdict::Refuse(r);
        // (term, generation, content) -> verdict, term that must be kept
        let rows = [
            (4, 6, 'a', refuse(Refusal::StaleTerm), None),
            (4, 7, 'a', refuse(Refusal::StaleTerm), None),
            (4, 9, 'a', refuse(Refusal::StaleTerm), None),
            (5, 6, 'a', refuse(Refusal::StaleGeneration), None),
            (5, 7, 'a', Verdict::AlreadyAccepted, None),
            (5, 7, 'b', refuse(Refusal::Conflict), None),
            (5, 8, 'a', Verdict::Accept, Some((5, 8))),
            (6, 6, 'a', refuse(Refusal::StaleGeneration), Some((6, 7))),
            (6, 7, 'a', Verdict::AlreadyAccepted, Some((6, 7))),
            (6, 7, 'b', refuse(Refusal::Conflict), Some((6, 7))),
            (6, 8, 'b', Verdict::Accept, Some((6, 8))),
        ];
        for (term, generation, content, verdict, kept) in rows {
            let got = admit(&own(), Some(&known), &fence(term, generation, content));
            assert_eq!(got.verdict, verdict, "{term} {generation} {content}");
            let mark = got.record.map(|r| (r.term.get(), r.generation.get()));
            assert_eq!(mark, kept, "{term} {generation} {content}");
        }
    }

    #[test]
    fn cluster_comes_before_compute_and_compute_before_term() {
        let known = accepted(&fence(5, 7, 'a'));
        let mut foreign = fence(9, 9, 'a');
        foreign.cluster_id = cluster(2);
        foreign.compute_id = "other".parse().unwrap();
        assert_eq!(admit(&own(), Some(&known), &foreign), Admission::refuse(Refusal::ForeignCluster));
        let mut wrong = fence(1, 9, 'a');
        wrong.compute_id = "other".parse().unwrap();
        assert_eq!(admit(&own(), Some(&known), &wrong), Admission::refuse(Refusal::WrongCompute));
        assert_eq!(admit(&own(), None, &wrong), Admission::refuse(Refusal::WrongCompute));
    }

    proptest! {
        /// Whatever arrives in whatever order, an agent never goes back in (term, generation), and what it
        /// accepted under one generation never changes.
        #[test]
        fn never_backwards(requests in prop::collection::vec((1i64..6, 1i64..6, 0u8..3), 1..60)) {
            let mut ledger: Option<LedgerRecord> = None;
            for (term, generation, content) in requests {
                let asked = fence(term, generation, char::from(b'a' + content));
                let got = admit(&own(), ledger.as_ref(), &asked);
                if let (Some(old), Some(new)) = (&ledger, &got.record) {
                    prop_assert!(new.term >= old.term && new.generation >= old.generation);
                    prop_assert!(new.generation > old.generation || new.spec_hash == old.spec_hash);
                }
                if got.verdict == Verdict::Accept {
                    prop_assert_eq!(got.record.as_ref().map(|r| r.generation), Some(asked.generation));
                }
                ledger = got.record.or(ledger);
            }
        }
    }
}
