//! A simulated agent answers as a real one: the same requests are sent to both, and what they answer is compared.
//!
//! ```text
//! routes (from the source of compute_ctl's door) ┐
//! ledger (by walking the cases of the rule)      ├─► rows ─► real compute_ctl (real PostgreSQL) ┐
//! content, stories (what depends on a state)     ┘       └─► agent of fleet_sim                 ┴─► compared, row by row
//! ```
//!
//! After each row the status of both is read and compared as well. What must differ is named in [`compare::DIFFERS`] and
//! nowhere else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod compare;
mod content;
mod ledger;
mod pair;
mod routes;
mod row;
mod stories;

use std::time::Instant;

use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::Script;
use pgfleet_harness::fleet::Fleet;

use pair::Pair;

/// Agents of the simulator; each part of the test has one, and a real one beside it.
const AGENTS: u32 = 8;
/// Rows that the test must have at least.
const FEWEST_ROWS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_agent_answers_as_a_real_one() {
    let Some(fleet) = Fleet::start("a_simulated_agent_answers_as_a_real_one").await else { return };
    let sim = start(&fleet).await;
    let mut told = Vec::new();
    let mut rows = 0;
    for (n, play) in [(0, "routes"), (1, "ledger"), (2, "content"), (3, "first"), (4, "unfenced"), (5, "failure")] {
        let begun = Instant::now();
        let mut pair = Pair::start(&fleet, &sim, n).await;
        match play {
            "routes" => pair.play(routes::rows()).await,
            "ledger" => ledger::walk(&mut pair).await,
            "content" => pair.play(content::rows()).await,
            "first" => pair.play(stories::first_fence()).await,
            "unfenced" => stories::unfenced(&mut pair).await,
            _ => stories::failure(&mut pair, &fleet, &sim).await,
        }
        println!("{play}: {} rows in {:.1} s", pair.rows, begun.elapsed().as_secs_f64());
        rows += pair.rows;
        told.append(&mut pair.told);
    }
    println!("{rows} rows");
    assert!(told.is_empty(), "{} of {rows} rows differ:\n{}", told.len(), told.join("\n"));
    assert!(rows >= FEWEST_ROWS, "{rows} rows only");
}

async fn start(fleet: &Fleet) -> Sim {
    let jwks = fleet.keys().jwks.to_str().unwrap();
    Sim::start(&fleet.dir().join("run"), AGENTS, &Script::default(), &["--jwks-file", jwks]).await
}
