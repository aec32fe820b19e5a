//! Rows made by walking the cases of the ledger's rule: whose cluster, whose compute, how the term, the generation and the
//! content stand to what the ledger holds.
//!
//! Each case brings the agents to a ledger of its own by a push that is accepted, and sends one request more. The answer is
//! also held against the rule itself, so that the walk is known to meet every verdict.

use std::collections::BTreeSet;

use pgfleet_api::{ClusterId, ComputeId, Fence};
use pgfleet_domain::fence::{LedgerRecord, Refusal, Verdict, admit};
use serde_json::json;
use uuid::Uuid;

use crate::pair::Pair;
use crate::row::{Row, fence, push, spec};

/// Between the ledgers of two cases.
const STRIDE: i64 = 10;

/// How a fence stands to the ledger.
#[derive(Debug, Clone, Copy)]
struct Case {
    foreign: bool,
    wrong: bool,
    term: i64,
    generation: i64,
    content: char,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for (foreign, wrong) in [(false, false), (true, false), (false, true), (true, true)] {
            for term in [-1, 0, 1] {
                for generation in [-1, 0, 1] {
                    cases.extend(['a', 'b'].map(|content| Self { foreign, wrong, term, generation, content }));
                }
            }
        }
        cases
    }

    /// The fence, for a ledger that holds this term and generation with content `a`.
    fn fence(self, own: &ComputeId, term: i64, generation: i64) -> Fence {
        let mut fence = fence(own, term + self.term, generation + self.generation, self.content);
        if self.foreign {
            fence.cluster_id = ClusterId(Uuid::from_u128(2));
        }
        if self.wrong {
            fence.compute_id = "other".parse().unwrap();
        }
        fence
    }
}

/// What carries a fence. The other three are walked for our own fences and one of each stranger's.
const ACTIONS: [&str; 4] = ["/configure", "/terminate?if_idle_ms=1000000000000", "/promote", "/plan"];

pub async fn walk(pair: &mut Pair<'_>) {
    let mut at = STRIDE;
    let mut met = BTreeSet::new();
    for action in ACTIONS {
        for case in Case::all() {
            let strange = case.foreign || case.wrong;
            if action != "/configure" && strange && (case.term, case.generation, case.content) != (1, 1, 'a') {
                continue;
            }
            at += STRIDE;
            let name = format!("{action} with {case:?}");
            let known = fence(&pair.own, at, at, 'a');
            pair.send(&push(format!("before {name}"), &known, &spec("ledger"))).await;
            let asked = case.fence(&pair.own, at, at);
            let answer = pair.send(&request(action, &name, &asked)).await;
            if action == "/configure" {
                let verdict = admit(&pair.own, Some(&record(&known)), &asked).verdict;
                met.insert(format!("{verdict:?}"));
                let wanted = expected(verdict);
                assert_eq!((answer.status, answer.code().as_deref()), wanted, "{name}: the rule says {verdict:?}");
            }
        }
    }
    assert_eq!(met.len(), 7, "the walk did not meet every verdict: {met:?}");
}

fn request(action: &str, name: &str, asked: &Fence) -> Row {
    let row = Row::new(name, "POST", action);
    match action {
        "/terminate?if_idle_ms=1000000000000" => row.json(&json!({"fence": asked})).differs(&["/msg", "/error"]),
        "/promote" => row.json(&json!({"spec": spec("ledger"), "fence": asked, "wal_flush_lsn": "0/0"})),
        // What a spec would change is known to those only that have one.
        "/plan" => {
            row.json(&json!({"spec": spec("ledger"), "fence": asked})).differs(&["/verdict", "/settings", "/notes"])
        }
        _ => row.json(&json!({"spec": spec("ledger"), "fence": asked})),
    }
}

fn record(fence: &Fence) -> LedgerRecord {
    let Fence { cluster_id, compute_id, term, generation, spec_hash } = fence.clone();
    LedgerRecord { cluster_id, compute_id, term, generation, spec_hash }
}

fn expected(verdict: Verdict) -> (u16, Option<&'static str>) {
    match verdict {
        Verdict::Accept | Verdict::AlreadyAccepted => (200, None),
        Verdict::Refuse(Refusal::ForeignCluster) => (409, Some("foreign_cluster")),
        Verdict::Refuse(Refusal::WrongCompute) => (421, Some("wrong_compute")),
        Verdict::Refuse(Refusal::StaleTerm) => (409, Some("stale_term")),
        Verdict::Refuse(Refusal::StaleGeneration) => (409, Some("stale_generation")),
        Verdict::Refuse(Refusal::Conflict) => (409, Some("fence_conflict")),
    }
}
