//! What the database was found to have lost: counted, said aloud, and kept until a leadership of this member can journal it.
//!
//! Called by the room (terms, the leader's renewals), and through closures of `app` by the memory (changes) and the engine
//! (what agents have). Invariants: each loss is told once, whoever of this process finds it first; what waits for the journal
//! is bounded, the newest stay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use measured::{Counter, CounterVec, FixedCardinalityLabel, LabelGroup, MetricGroup};
use pgfleet_api::InstanceId;
use pgfleet_domain::loss::What;
use pgfleet_persistence::{Action, Change, Writer};
use pgfleet_runtime::metrics::show_zeros;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Who the journal names for what the controller notes by itself.
const ACTOR: &str = "controller";

/// As many findings wait for the journal.
const WAITING: usize = 32;

/// What is lost, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "snake_case")]
enum Lost {
    Term,
    Changes,
    Identity,
    AgentTerm,
    AgentGeneration,
    AgentContent,
}

impl From<What> for Lost {
    fn from(what: What) -> Self {
        match what {
            What::Term => Self::Term,
            What::Changes => Self::Changes,
            What::Identity => Self::Identity,
            What::AgentTerm => Self::AgentTerm,
            What::AgentGeneration => Self::AgentGeneration,
            What::AgentContent => Self::AgentContent,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = LostSet)]
struct ByLost {
    what: Lost,
}

mod group {
    #![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]
    use super::{Counter, CounterVec, LostSet, MetricGroup};

    /// What the database has lost.
    #[derive(MetricGroup)]
    #[metric(new())]
    pub struct LossMetrics {
        /// Findings that the database has lost what it had committed, by what is missing.
        pub(super) lost_commits_total: CounterVec<LostSet>,
        /// Times that this leader met its database on another timeline: it was promoted, and nothing is known to be lost.
        pub(super) database_failovers_total: Counter,
    }
}

pub use group::LossMetrics;

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Losses {
    me: InstanceId,
    metrics: Arc<LossMetrics>,
    kept: Arc<Mutex<Kept>>,
    waits: Arc<Notify>,
}

#[derive(Default)]
struct Kept {
    /// The last finding of each kind, as (known, found): the same is found by several rooms.
    told: BTreeMap<What, (Value, Value)>,
    waiting: VecDeque<Finding>,
    /// The schema may have been lost, too, and was not looked at since.
    schema_in_doubt: bool,
}

/// A line for the journal.
struct Finding {
    reason: &'static str,
    detail: Value,
}

impl Losses {
    /// Nothing was found yet.
    #[must_use]
    pub fn new(me: InstanceId, metrics: Arc<LossMetrics>) -> Self {
        show_zeros(&metrics.lost_commits_total);
        Self { me, metrics, kept: Arc::default(), waits: Arc::default() }
    }

    /// The lock guards plain collections; a panic between two assignments leaves them whole.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database lacks something that was `known` and has `found` in its place.
    pub fn found(&self, what: What, known: impl Into<Value>, found: impl Into<Value>) {
        let (known, found) = (known.into(), found.into());
        let mut kept = self.lock();
        // A term that an agent has seen is looked for in the row next, and is missing there, of course.
        let agents = kept.told.get(&What::AgentTerm).is_some_and(|(term, _)| what == What::Term && *term == known);
        let pair = (known.clone(), found.clone());
        if agents || kept.told.get(&what) == Some(&pair) {
            return;
        }
        kept.told.insert(what, pair);
        kept.schema_in_doubt = true;
        self.metrics.lost_commits_total.inc(ByLost { what: what.into() });
        let what = what.as_str();
        tracing::error!(
            what,
            %known,
            %found,
            "the database has lost commits: {what} {known} was known and {found} is there; the fleet goes on from what the \
             database has. Put again what your clients were promised since, and let the database replicate synchronously"
        );
        self.wait(
            &mut kept,
            "lost_commits",
            json!({"op": "lost_commits", "what": what, "known": known, "found": found}),
        );
    }

    /// A compute's generation was lifted above what its agent has; the journal has it already.
    pub fn lifted(&self, what: What) {
        self.metrics.lost_commits_total.inc(ByLost { what: what.into() });
    }

    /// The database was promoted, and has all that this member knows.
    pub(super) fn failed_over(&self, known: &str, found: &str) {
        self.metrics.database_failovers_total.get_metric().inc();
        tracing::warn!(
            known,
            found,
            "the database is on another timeline: it has failed over, and nothing known is lost"
        );
        let detail = json!({"op": "database_failover", "known": known, "found": found});
        self.wait(&mut self.lock(), "database_failover", detail);
    }

    fn wait(&self, kept: &mut Kept, reason: &'static str, mut detail: Value) {
        let noticed_at: DateTime<Utc> = Utc::now();
        detail["noticed_at"] = json!(noticed_at);
        detail["noticed_by"] = json!(self.me);
        if kept.waiting.len() >= WAITING {
            kept.waiting.pop_front();
        }
        kept.waiting.push_back(Finding { reason, detail });
        self.waits.notify_one();
    }

    /// Whether the schema may be older than it was; asked once after each finding.
    #[must_use]
    pub fn take_schema_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().schema_in_doubt)
    }

    /// Journals what was found, also before this leadership, until `token` is cancelled.
    ///
    /// # Errors
    /// Never; the type is what a task has. What cannot be written waits for the next leadership of this member.
    pub async fn journal(self, writer: Writer, token: CancellationToken) -> Result<(), std::convert::Infallible> {
        loop {
            loop {
                let Some(finding) = self.lock().waiting.pop_front() else { break };
                let (actor, reason) = (ACTOR.to_owned(), Some(finding.reason.to_owned()));
                let line = Action { compute_id: None, actor, reason, detail: finding.detail.clone() };
                if let Err(error) = writer.submit(Change::Journal(line)).await {
                    tracing::warn!(%error, "what the database has lost is not in the journal yet");
                    self.lock().waiting.push_front(finding);
                    break;
                }
            }
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = self.waits.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses() -> Losses {
        Losses::new(InstanceId(uuid::Uuid::nil()), Arc::new(LossMetrics::new()))
    }

    fn waiting(losses: &Losses) -> Vec<Value> {
        losses.lock().waiting.iter().map(|finding| finding.detail["what"].clone()).collect()
    }

    #[test]
    fn each_loss_is_told_once() {
        let losses = losses();
        losses.found(What::Changes, 9, 5);
        losses.found(What::Changes, 9, 5);
        losses.found(What::Changes, 11, 5);
        losses.found(What::AgentTerm, 7, 2);
        losses.found(What::Term, 7, 2);
        losses.found(What::Term, 8, 2);
        assert_eq!(waiting(&losses), ["changes", "changes", "agent_term", "term"]);
        assert!(losses.take_schema_doubt() && !losses.take_schema_doubt());
    }

    #[test]
    fn what_waits_is_bounded() {
        let losses = losses();
        for known in 0..100 {
            losses.found(What::Changes, known, -1);
        }
        assert_eq!(waiting(&losses).len(), WAITING);
        assert_eq!(losses.lock().waiting.back().map(|last| last.detail["known"].clone()), Some(json!(99)));
    }
}
