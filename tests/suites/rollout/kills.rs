//! Leaders that die: the next one finishes, nobody gets it twice, and the limit holds.

use std::time::Duration;

use pgfleet_api::rollout::{RolloutCommand, RolloutPhase, TargetPhase};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;

use crate::yard::Yard;
use crate::{SETTING, count, nobody_twice, reaches, request, strategy};

const TAKES: Duration = Duration::from_millis(400);

async fn leader_and_next(fleet: &Fleet) -> (Controller, Controller) {
    let leader = fleet.controller("a").start_leader().await;
    let next = fleet.controller("b").start().await;
    next.follows(&leader, crate::PATIENCE).await;
    (leader, next)
}

/// SIGKILL of the leader as soon as the roll-out is in this phase; the next one finishes.
async fn killed_while(test: &str, phase: RolloutPhase) {
    let Some(fleet) = Fleet::start(test).await else { return };
    let (leader, next) = leader_and_next(&fleet).await;
    let client = fleet.client(&[&leader, &next]);
    let yard = Yard::open(7, TAKES, &client).await;
    client.start_rollout(&request("r", strategy()), None).await.unwrap();
    reaches(&client, "r", phase).await;
    leader.process.kill().await;
    let done = reaches(&client, "r", RolloutPhase::Done).await;
    assert_eq!(count(&done, TargetPhase::Healthy), 7, "{done:?}");
    assert_eq!(yard.generations(), [2; 7]);
    assert!(yard.most_at_once() <= 2, "{} at once", yard.most_at_once());
    nobody_twice(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_in_the_canary() {
    killed_while("sigkill_in_the_canary", RolloutPhase::Canary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_in_a_soak() {
    killed_while("sigkill_in_a_soak", RolloutPhase::Soaking).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_in_a_wave() {
    killed_while("sigkill_in_a_wave", RolloutPhase::Waving).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_while_halted_and_while_rolling_back() {
    let Some(fleet) = Fleet::start("sigkill_while_halted_and_while_rolling_back").await else { return };
    let (first, second) = leader_and_next(&fleet).await;
    let third = fleet.controller("c").start().await;
    let client = fleet.client(&[&first, &second, &third]);
    let yard = Yard::open(7, TAKES, &client).await;
    yard.agents[4].dislikes(SETTING);
    client.start_rollout(&request("r", strategy()), None).await.unwrap();
    reaches(&client, "r", RolloutPhase::Halted).await;
    let touched = yard.generations();
    first.process.kill().await;

    let still = reaches(&client, "r", RolloutPhase::Halted).await;
    assert_eq!(count(&still, TargetPhase::Failed), 1, "{still:?}");
    pgfleet_harness::wait::stays("nothing more is touched", Duration::from_secs(1), async || {
        yard.generations() == touched
    })
    .await;
    client.command_rollout(&"r".parse().unwrap(), RolloutCommand::Rollback, None).await.unwrap();
    let back = client.rollout(&"r".parse().unwrap()).await.unwrap();
    assert_eq!(back.phase, RolloutPhase::RollingBack);
    let leader =
        if second.status().await.is_some_and(|status| status.role.as_str() == "leader") { &second } else { &third };
    leader.process.kill().await;

    let back = reaches(&client, "r", RolloutPhase::RolledBack).await;
    assert_eq!(count(&back, TargetPhase::Overtaken) + count(&back, TargetPhase::Unrestored), 0, "{back:?}");
    assert!(yard.with_setting(SETTING).is_empty());
    let restored: Vec<i64> = touched.iter().map(|generation| if *generation == 2 { 3 } else { 1 }).collect();
    assert_eq!(yard.generations(), restored, "what was touched got its previous spec back, once");
    assert!(yard.most_at_once() <= 2, "{} at once", yard.most_at_once());
    nobody_twice(&fleet).await;
}

/// One leader after the other dies, whenever; somebody finishes.
#[tokio::test(flavor = "multi_thread")]
async fn a_roll_out_survives_any_number_of_leaders() {
    let Some(fleet) = Fleet::start("a_roll_out_survives_any_number_of_leaders").await else { return };
    let ports: Vec<u16> = (0..2).map(|_| pgfleet_harness::fleet::free_port()).collect();
    let mut leader = fleet.controller("m0").port(ports[0]).start_leader().await;
    let mut other = fleet.controller("m1").port(ports[1]).start().await;
    let client = fleet.client(&[&leader, &other]);
    let yard = Yard::open(10, Duration::from_millis(200), &client).await;
    client.start_rollout(&request("r", strategy()), None).await.unwrap();
    for life in 2..8_usize {
        // Whenever: the moments differ from run to run, and none may matter.
        tokio::time::sleep(Duration::from_millis(350)).await;
        leader.process.kill().await;
        let reborn = fleet.controller(&format!("m{life}")).port(ports[life % 2]).start().await;
        (leader, other) = (other, reborn);
        leader.leads(crate::PATIENCE).await;
    }
    let done = reaches(&client, "r", RolloutPhase::Done).await;
    assert_eq!(count(&done, TargetPhase::Healthy), 10, "{done:?}");
    assert_eq!(yard.generations(), [2; 10]);
    assert!(yard.most_at_once() <= 2, "{} at once", yard.most_at_once());
    nobody_twice(&fleet).await;
    drop(other);
}
