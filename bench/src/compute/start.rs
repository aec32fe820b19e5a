//! From nothing to a running PostgreSQL.

use pgfleet_harness::fleet::Fleet;
use serde::Serialize;

use super::home::{Agent, Bare, Home, spec};
use crate::stats::median;

/// Starts, agent and bare by turns.
#[derive(Debug, Clone, Serialize)]
pub struct Started {
    /// Pairs.
    pub n: usize,
    /// Median of the pairs' ratios.
    pub ratio: Option<f64>,
    /// From the agent's exec with `-S` on an empty directory to `running`; the spec is empty.
    pub agent_ms: Option<f64>,
    /// `initdb` with the agent's flags, one `syncfs` as the agent does, `pg_ctl -w start`.
    pub bare_ms: Option<f64>,
}

pub(super) async fn measure(fleet: &Fleet, n: usize) -> Started {
    let (mut agents, mut bares, empty) = (Vec::new(), Vec::new(), spec(0, 0));
    // The first pair warms caches and does not count.
    for round in 0..=n {
        let (agent, took) = Agent::start(fleet, &format!("start-a{round}"), Some(&empty)).await;
        agent.stop().await;
        let (bare, bare_took) = Bare::start(Home::make(fleet, &format!("start-b{round}")));
        bare.stop();
        if round > 0 {
            agents.push(took);
            bares.push(bare_took);
        }
    }
    let ratios: Vec<f64> = agents.iter().zip(&bares).map(|(agent, bare)| agent / bare).collect();
    Started { n, ratio: median(ratios), agent_ms: median(agents), bare_ms: median(bares) }
}
