//! A spec that is in effect already, under new generations.

use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::TestClient;

use super::home::{Agent, spec, stop};
use crate::stats::{Spread, median, rounded};

/// Exchanges for the floor.
const EXCHANGES: usize = 400;

/// Specs that change nothing.
#[derive(Debug, Clone)]
pub struct Noop {
    /// One call, from the request to its answer.
    pub ms: Option<Spread>,
    /// Transactions that wrote, over all calls. Autovacuum is off and nobody else is there, so they are the agent's.
    pub sql_writes: u64,
    /// The floor of a call.
    pub http_ms: Option<f64>,
    /// Resident memory of the agent after it, in MiB.
    pub rss_mb: Option<f64>,
}

pub(super) async fn measure(fleet: &Fleet, n: usize) -> Noop {
    let wanted = spec(6, 3);
    let (mut agent, _) = Agent::start(fleet, "noop", Some(&wanted)).await;
    // Under a fence for the first time; what an agent does once it has done now.
    agent.apply(&wanted).await;
    let session = agent.session("postgres").await;
    let before = next_transaction(&session).await;
    let mut figures = Vec::with_capacity(n);
    for _ in 0..n {
        figures.push(agent.apply(&wanted).await);
    }
    let sql_writes = next_transaction(&session).await.saturating_sub(before);
    let mut exchanges = Vec::with_capacity(EXCHANGES);
    for _ in 0..EXCHANGES {
        exchanges.push(agent.exchange().await);
    }
    let rss_mb = agent.rss_mb().map(rounded);
    drop(session);
    agent.stop().await;
    Noop { ms: Spread::of(figures), sql_writes, http_ms: median(exchanges), rss_mb }
}

/// The number of the next transaction that writes: only those take one.
async fn next_transaction(session: &TestClient) -> u64 {
    const ASK: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    let row = session.query_one(ASK, &[]).await.unwrap_or_else(|error| stop("the next transaction", error));
    let text: String = row.get(0);
    text.parse().unwrap_or_else(|error| stop(&text, error))
}
