//! Puts a large fleet into the database by SQL: computes that are converged and that nothing has to be done about.
//!
//! Who calls it: the bed, between two controllers, when nobody leads. Their agents do not exist; nobody asks them, because
//! what was observed equals what was asked for and the members of a bed do not probe.

use std::fmt::Display;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::Observed;
use pgfleet_api::{BootId, Generation, SpecHash, Term};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::orders;

/// Where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

const COMPUTES: &str = "
    INSERT INTO computes (compute_id, agent_url, labels, generation, spec, spec_hash, change_seq, created_at, updated_at)
    SELECT 'c' || lpad(n::text, 6, '0'), $1, '{\"tier\": \"bench\"}', 1, $2, $3, n, now(), now()
    FROM generate_series(1, $4::bigint) AS n";

const OBSERVED: &str = "
    INSERT INTO observed (compute_id, state, observed, change_seq, updated_at)
    SELECT 'c' || lpad(n::text, 6, '0'), $1, $2, $3::bigint + n, now()
    FROM generate_series(1, $3::bigint) AS n";

/// Puts so many computes in, and writes everything out, so that no checkpoint of it falls into a measurement.
pub async fn seed(fleet: &Fleet, computes: usize) {
    let count = i64::try_from(computes).unwrap_or(i64::MAX);
    let mut database = fleet.database().await;
    let transaction = database.transaction().await.unwrap_or_else(|error| stop("seeding does not begin", error));
    // The content's hash is only ever compared with itself.
    let hash = "5eed".repeat(16);
    let seen = serde_json::to_value(running(&hash)).unwrap_or_else(|error| stop("an observation is no JSON", error));
    let (spec, state) = (orders(), ComputeState::Running.as_str());
    let put = transaction.execute(COMPUTES, &[&NOBODY, &spec, &hash, &count]).await;
    put.unwrap_or_else(|error| stop("computes", error));
    let put = transaction.execute(OBSERVED, &[&state, &seen, &count]).await;
    put.unwrap_or_else(|error| stop("observed", error));
    let put = transaction.execute("UPDATE change_cursor SET last_change = $1", &[&(2 * count)]).await;
    put.unwrap_or_else(|error| stop("change_cursor", error));
    transaction.commit().await.unwrap_or_else(|error| stop("seeding does not end", error));
    for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
        database.batch_execute(statement).await.unwrap_or_else(|error| stop(statement, error));
    }
}

fn running(hash: &str) -> Observed {
    let spec_hash: SpecHash = hash.parse().unwrap_or_else(|error| stop("a hash", error));
    Observed {
        state: ComputeState::Running,
        boot_id: BootId::generate(),
        status_seq: 1,
        term: Some(Term(1)),
        generation: Some(Generation(1)),
        applied_generation: Some(Generation(1)),
        rejected_generation: None,
        spec_hash: Some(spec_hash),
        pending_restart: Vec::new(),
        ignored_fields: Vec::new(),
        error: None,
        error_detail: None,
        failures: Vec::new(),
        postgres: None,
    }
}

fn stop(what: &str, error: impl Display) -> ! {
    panic!("{what}: {error}");
}
