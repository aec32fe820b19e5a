//! In which term each acknowledged write was executed: the database's own record of it.

use std::collections::BTreeMap;

use pgfleet_api::Term;
use pgfleet_harness::fleet::Fleet;

use crate::load::{Exchange, Kind};

/// The writes of these terms and later ones.
#[derive(Debug)]
pub struct Journal {
    terms: BTreeMap<(String, i64), i64>,
}

impl Journal {
    /// Reads what was written since the beginning of this term.
    pub async fn since(fleet: &Fleet, term: Term) -> Self {
        let sql = "SELECT compute_id, (detail->>'generation')::bigint, term FROM journal
                   WHERE kind = 'action' AND detail->>'generation' IS NOT NULL AND term >= $1";
        let rows = fleet.database().await.query(sql, &[&term.get()]).await;
        let rows = rows.unwrap_or_else(|error| panic!("no journal: {error:?}"));
        let terms = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        Self { terms }
    }

    /// The term in which an acknowledged write was executed.
    #[must_use]
    pub fn term_of(&self, write: &Exchange) -> Option<i64> {
        let generation = write.outcome.as_ref().ok()?.get();
        self.terms.get(&(write.compute.to_string(), generation)).copied()
    }

    /// How many of these acknowledged writes it does not have.
    #[must_use]
    pub fn lost(&self, exchanges: &[Exchange]) -> usize {
        let writes = exchanges.iter().filter(|one| one.executed(Kind::Write));
        writes.filter(|write| self.term_of(write).is_none()).count()
    }
}

/// How many changes a term wrote after a later term had written its first.
pub async fn written_late(fleet: &Fleet, term: Term) -> i64 {
    let sql = "SELECT count(*) FROM journal WHERE term = $1
               AND change_seq > (SELECT min(change_seq) FROM journal WHERE term > $1)";
    let row = fleet.database().await.query_one(sql, &[&term.get()]).await;
    row.unwrap_or_else(|error| panic!("no journal: {error:?}")).get(0)
}
