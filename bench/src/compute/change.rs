//! A changed setting, from the PUT at the controller to the generation applied at the agent.

use std::time::{Duration, Instant};

use hyper::Method;
use pgfleet_api::agent::AgentStatus;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{RegisterCompute, SpecAccepted};
use pgfleet_clients::token::Grant;
use pgfleet_harness::fleet::Fleet;
use serde::Serialize;
use serde_json::json;

use super::home::{PATIENCE, spec, stop};
use crate::stats::{Spread, ms};
use crate::wire::{Ask, Wire};

/// How often the agent is asked.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Changed settings.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    /// How many.
    pub n: usize,
    /// Each.
    #[serde(flatten)]
    pub ms: Spread,
}

pub(super) async fn measure(fleet: &Fleet, n: usize) -> Option<Changed> {
    let controller = fleet.controller("change").start_leader().await;
    let agent = fleet.agent("change").start().await;
    let client = fleet.client(&[&controller]);
    let mut wanted = spec(6, 3);
    let body =
        RegisterCompute { agent_url: agent.url().to_owned(), labels: Default::default(), spec: Some(wanted.clone()) };
    client.register(&agent.id, &body).await.unwrap_or_else(|error| stop("a compute", error));
    agent.runs(pgfleet_api::Generation(1)).await;
    let (mut writes, mut reads) = (Wire::new(controller.url()), Wire::new(agent.url()));
    let mut figures = Vec::with_capacity(n);
    // The first ones make connections and do not count.
    for round in 0..n + 3 {
        wanted["cluster"]["settings"][1]["value"] = json!(format!("{}kB", 1024 + round));
        let tokens = fleet.keys();
        let put = Ask {
            method: Method::PUT,
            path: format!("/control/v1/compute/{}/spec", agent.id),
            token: Some(tokens.scope(Scope::Admin)),
            body: wanted.to_string().into_bytes(),
        };
        let path = "/status".to_owned();
        let look =
            Ask { method: Method::GET, path, token: Some(tokens.token(&Grant::agent_admin())), body: Vec::new() };
        let begun = Instant::now();
        let answer = writes.send(&put).await.unwrap_or_else(|failure| stop("PUT spec", failure));
        let accepted: SpecAccepted = serde_json::from_slice(&answer).unwrap_or_else(|error| stop("its answer", error));
        loop {
            let answer = reads.send(&look).await.unwrap_or_else(|failure| stop("GET /status", failure));
            let status: AgentStatus = serde_json::from_slice(&answer).unwrap_or_else(|error| stop("a status", error));
            if status.applied_generation >= Some(accepted.generation) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "generation {} is not applied: {status:?}", accepted.generation);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if round >= 3 {
            figures.push(ms(begun.elapsed()));
        }
    }
    Spread::of(figures).map(|ms| Changed { n, ms })
}
