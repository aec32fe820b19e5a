//! How the cost of a fleet that has nothing to do grows with its size.
//!
//! One leader, whose fleet grows from size to size; at each it is left alone and then counted, as in the steady scenario, over a
//! shorter time. The exponent is that of the power law that fits the processor times best.

use pgfleet_fleet_sim::script::Script;
use serde_json::json;

use super::fit::exponent;
use super::herd::Herd;
use super::plan::Plan;
use super::report::Measured;
use crate::stats::rounded;

/// Fleets.
const SIZES: [usize; 4] = [1000, 5000, 20_000, 50_000];
const QUICK: [usize; 2] = [50, 200];

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let sizes = plan.sizes_of(&SIZES, &QUICK);
    let most = u32::try_from(sizes.last().copied().unwrap_or(1)).unwrap_or(u32::MAX);
    let mut herd = Herd::make(plan, "growth", most, &Script::default()).await?;
    let (mut points, mut costs) = (Vec::new(), Vec::new());
    for size in sizes {
        herd.grow(u32::try_from(size).unwrap_or(u32::MAX)).await;
        herd.calm().await;
        let cost = herd.cost(plan.window(40.0, 1.0)).await;
        // A clock tick is the least that the kernel counts.
        costs.push((size as f64, cost.cpu_percent.max(0.01)));
        points.push(json!([size, cost.cpu_percent, cost.rss_mb, cost.statements_per_s]));
    }
    let figures = json!({"cpu_exponent": exponent(&costs).map(rounded), "points": points});
    let notes = vec!["points: computes, percent of a core, resident MB, statements per second".to_owned()];
    Some(Measured { figures, floors: json!({}), notes })
}
