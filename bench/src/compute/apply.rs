//! A large spec at a running agent, against a psql script that does the same at a bare server; then the agent at rest.

use std::time::{Duration, Instant};

use pgfleet_harness::fleet::Fleet;
use serde::Serialize;

use super::home::{Agent, Bare, Home, spec};
use super::plan::Plan;
use super::script;
use crate::stats::{median, rounded};

/// Repetitions of the large spec once it is in effect.
const AGAIN: usize = 5;
/// What the agent may still finish before it counts as idle.
const SETTLE: Duration = Duration::from_secs(2);

/// Large specs and scripts, by turns.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Applied {
    /// Pairs.
    pub n: usize,
    /// Roles.
    pub roles: usize,
    /// Databases.
    pub databases: usize,
    /// Median of the pairs' ratios.
    pub ratio: Option<f64>,
    /// From the request to the generation applied.
    pub agent_ms: Option<f64>,
    /// One run of psql.
    pub script_ms: Option<f64>,
    /// The large spec again, under a new generation.
    pub again_ms: Option<f64>,
    /// Resident memory of the agent after all of that, in MiB.
    #[serde(skip)]
    pub rss_mb: Option<f64>,
    /// Its processor time at rest.
    #[serde(skip)]
    pub idle_cpu_percent: Option<f64>,
}

pub(super) async fn measure(fleet: &Fleet, plan: &Plan, notes: &mut Vec<String>) -> Applied {
    let wanted = spec(plan.roles, plan.databases);
    let (mut agents, mut scripts, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let mut applied = Applied { n: plan.applies, roles: plan.roles, databases: plan.databases, ..Applied::default() };
    for round in 0..plan.applies {
        let (mut agent, _) = Agent::start(fleet, &format!("apply-a{round}"), Some(&spec(0, 0))).await;
        agents.push(agent.apply_large(&wanted).await);
        let postgres = agent.session("postgres").await;
        let database = if plan.databases > 0 { "d0000" } else { "postgres" };
        let script = script::of(&postgres, &agent.session(database).await).await;
        let content = script::content(&postgres).await;
        drop(postgres);
        if round + 1 == plan.applies {
            for _ in 0..AGAIN {
                again.push(agent.apply_large(&wanted).await);
            }
            applied.rss_mb = agent.rss_mb().map(rounded);
            applied.idle_cpu_percent = idle(&agent, plan.idle_seconds).await.map(rounded);
        }
        agent.stop().await;
        // The two need the disk one after the other.
        let (bare, _) = Bare::start(Home::make(fleet, &format!("apply-b{round}")));
        scripts.push(bare.psql(&script));
        let by_script = script::content(&bare.session("postgres").await).await;
        if by_script != content {
            notes.push(format!("not the same work: the agent left {content}, the script {by_script}"));
        } else if round == 0 {
            notes
                .push(format!("agent and script both left {content}; the script has {} lines", script.lines().count()));
        }
        bare.stop();
    }
    let ratios: Vec<f64> = agents.iter().zip(&scripts).map(|(agent, script)| agent / script).collect();
    applied.ratio = median(ratios);
    applied.agent_ms = median(agents);
    applied.script_ms = median(scripts);
    applied.again_ms = median(again);
    applied
}

/// Percent of one processor, while nobody asks.
async fn idle(agent: &Agent, seconds: u64) -> Option<f64> {
    tokio::time::sleep(SETTLE).await;
    let (before, begun) = (agent.cpu_seconds()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Some((agent.cpu_seconds()? - before) / begun.elapsed().as_secs_f64() * 100.0)
}
