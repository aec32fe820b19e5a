//! Roll-outs on real controllers: waves, limits, halts, roll-backs, and leaders that die in every phase.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod answers;
mod kills;
mod waves;
mod yard;

use std::time::Duration;

use pgfleet_api::rollout::{
    Amount, RolloutPhase, RolloutStrategy, RolloutView, Selector, SpecPatch, StartRollout, TargetPhase,
};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::wait::wait_for;
use serde_json::json;

/// A setting that a spec takes and that nothing else in these tests has.
const SETTING: &str = "work_mem";
/// A roll-out of a dozen computes that apply in a fraction of a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn request(name: &str, strategy: RolloutStrategy) -> StartRollout {
    StartRollout {
        rollout_id: Some(name.parse().unwrap()),
        selector: Selector { labels: [("tier".to_owned(), "gold".to_owned())].into(), all: false },
        patch: SpecPatch { settings: [(SETTING.to_owned(), json!("8MB"))].into(), ..SpecPatch::default() },
        strategy,
    }
}

/// Canary 1, waves of 3, two at a time, none may fail.
fn strategy() -> RolloutStrategy {
    RolloutStrategy {
        canary: Amount::Count(1),
        wave: Amount::Count(3),
        max_unavailable: Amount::Count(2),
        soak_s: 1,
        gate_timeout_s: 20,
        error_budget: 0,
    }
}

async fn reaches(client: &ControllerClient, name: &str, phase: RolloutPhase) -> RolloutView {
    let id = name.parse().unwrap();
    let what = format!("roll-out {name} is {}", phase.as_str());
    wait_for(&what, PATIENCE, async || client.rollout(&id).await.ok().filter(|view| view.phase == phase)).await
}

fn count(view: &RolloutView, phase: TargetPhase) -> u32 {
    view.counts.get(&phase).copied().unwrap_or(0)
}

/// Nobody was touched or restored twice, by the journal.
async fn nobody_twice(fleet: &Fleet) {
    let twice = "SELECT compute_id || ' ' || (detail->>'op') FROM journal
                 WHERE detail->>'op' IN ('rollout_touch', 'rollout_restore')
                 GROUP BY compute_id, detail->>'op', detail->>'rollout_id' HAVING count(*) > 1";
    let rows = fleet.database().await.query(twice, &[]).await.unwrap();
    assert!(rows.is_empty(), "{:?}", rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>());
}
