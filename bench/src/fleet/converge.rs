//! One bulk change, until all of it is applied at the agents and recorded in the database.
//!
//! With faults one percent of the agents fail every spec and one percent take a second longer for everything. What counts then is
//! when every other compute has its spec in effect and recorded, and whether any of them is left behind.

use std::time::{Duration, Instant};

use pgfleet_fleet_sim::script::{Group, Latency, Script, Slow};
use serde_json::{Value, json};

use super::herd::{Herd, id, unrecorded};
use super::plan::Plan;
use super::report::Measured;
use crate::stats::rounded;

/// Share of the agents that fail, and of those that are slow.
const SHARE: f64 = 0.01;
const SLOWER_MS: f64 = 1000.0;
/// How long healthy computes may take beside faulty ones.
const LIMIT: Duration = Duration::from_secs(60);

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let sizes = plan.sizes_of(&[10_000, 20_000], &[200, 400]);
    let (least, most) = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
    let mut herd = Herd::make(plan, "converge", u32::try_from(most).unwrap_or(u32::MAX), &Script::default()).await?;
    let few = u32::try_from(least).unwrap_or(u32::MAX);
    herd.grow(few).await;
    herd.calm().await;
    let begun = Instant::now();
    herd.change(0..few, "changed").await;
    let accepted_s = rounded(begun.elapsed().as_secs_f64());
    herd.settled().await;
    herd.recorded(&(0..few).map(id).collect::<Vec<_>>()).await;
    let whole_s = rounded(begun.elapsed().as_secs_f64());

    herd.grow(herd.sim.agents()).await;
    herd.calm().await;
    let faulty = faulty(&mut herd).await;
    let mut figures = json!({"accepted_s": accepted_s});
    figures[format!("n{least}_s")] = json!(whole_s);
    figures[format!("n{most}_faulty")] = faulty;
    let notes = vec![
        "from the first byte of the bulk change to the last observation in the database; accepted_s: until every line was answered".to_owned(),
        format!("agents apply a spec in 10 ms; slow ones take {SLOWER_MS} ms longer for each answer and each spec"),
    ];
    Some(Measured { figures, floors: json!({}), notes })
}

async fn faulty(herd: &mut Herd) -> Value {
    let slow = Slow { share: SHARE, extra: Latency::FixedMs(SLOWER_MS) };
    let group = Group { failing: SHARE, slow: Some(slow), ..Group::default() };
    herd.sim.script(&Script { seed: 6, groups: vec![group] }).await;
    let agents = herd.sim.agents();
    let lines = herd.sim.lines(0, agents).await;
    let healthy: Vec<String> = lines.iter().filter(|line| !line.fails && !line.slow).map(|line| id(line.n)).collect();
    let database = herd.ground.fleet.database().await;
    let begun = Instant::now();
    herd.change(0..agents, "changed with faults").await;
    let left = loop {
        let left = unrecorded(&database, &healthy).await;
        if left == 0 || begun.elapsed() > LIMIT {
            break left;
        }
        // Every look is a join of the whole fleet, in the database that is measured.
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    json!({
        "seconds": rounded(begun.elapsed().as_secs_f64()),
        "unapplied_healthy": left,
        "faulty": lines.len() - healthy.len(),
    })
}
