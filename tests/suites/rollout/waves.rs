//! One leader: waves and limits, halt and budget, roll-back, pause and abort.

use std::time::Duration;

use pgfleet_api::rollout::{RolloutCommand, RolloutComputesQuery, RolloutPhase, RolloutStrategy, TargetPhase};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::stays;

use crate::yard::Yard;
use crate::{SETTING, count, nobody_twice, reaches, request, strategy};

const TAKES: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread")]
async fn waves_go_one_after_the_other_within_the_limit_and_come_back() {
    let Some(fleet) = Fleet::start("waves_go_one_after_the_other_within_the_limit_and_come_back").await else { return };
    let leader = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&leader]);
    let yard = Yard::open(6, TAKES, &client).await;
    let before = client.get(&yard.agents[0].id).await.unwrap().spec_hash;

    let started = client.start_rollout(&request("r", strategy()), Some("more memory")).await.unwrap();
    assert_eq!((started.plan.computes, started.plan.waves, started.selected), (6, 3, 6));
    assert_eq!(started.reason.as_deref(), Some("more memory"));
    let canary = reaches(&client, "r", RolloutPhase::Soaking).await;
    assert_eq!((canary.wave, count(&canary, TargetPhase::Healthy)), (0, 1));
    assert_eq!(yard.with_setting(SETTING), ["c00"], "the canary alone");
    let done = reaches(&client, "r", RolloutPhase::Done).await;
    assert_eq!(count(&done, TargetPhase::Healthy), 6, "{done:?}");
    assert_eq!(yard.generations(), [2; 6]);
    assert_eq!(yard.most_at_once(), 2);

    // One was changed by an operator since, one was deleted: neither is written over, and both are named.
    let (changed, deleted) = (&yard.agents[1].id, &yard.agents[2].id);
    client.put_spec(changed, &marked("operator"), None).await.unwrap();
    // His own change makes a compute busy as well, and is not counted against a roll-out.
    client.wait(changed, None, crate::PATIENCE).await.unwrap();
    client.delete(deleted).await.unwrap();
    let id = "r".parse().unwrap();
    client.command_rollout(&id, RolloutCommand::Rollback, Some("slower")).await.unwrap();
    let back = reaches(&client, "r", RolloutPhase::RolledBack).await;
    assert_eq!((count(&back, TargetPhase::Restored), count(&back, TargetPhase::Overtaken)), (4, 2), "{back:?}");
    let why: Vec<_> = back.troubles.iter().map(|one| one.error.clone().unwrap()).collect();
    assert_eq!(why, ["somebody else changed it since, to generation 3", "it was deleted since"]);
    assert_eq!(client.get(&yard.agents[0].id).await.unwrap().spec_hash, before, "byte for byte");
    assert_eq!(client.get_spec(changed).await.unwrap().spec, marked("operator"));
    assert_eq!(yard.with_setting(SETTING), ["c02"], "the deleted one keeps running with it");
    assert_eq!(yard.most_at_once(), 2);
    nobody_twice(&fleet).await;

    let journal = "SELECT string_agg(actor || ':' || (detail->>'phase'), ' ' ORDER BY change_seq) FROM journal
                   WHERE detail->>'op' = 'rollout_phase'";
    let phases: String = fleet.database().await.query_one(journal, &[]).await.unwrap().get(0);
    let expected =
        ["canary", "soaking", "waving", "soaking", "waving", "soaking", "done"].map(|p| format!("controller:{p}"));
    assert!(phases.starts_with(&expected.join(" ")), "{phases}");
    assert!(phases.ends_with("rolling_back controller:rolled_back"), "{phases}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_above_the_budget_halts_and_a_roll_back_heals() {
    let Some(fleet) = Fleet::start("a_failure_above_the_budget_halts_and_a_roll_back_heals").await else { return };
    let leader = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&leader]);
    let yard = Yard::open(6, TAKES, &client).await;
    yard.agents[2].dislikes(SETTING);

    client.start_rollout(&request("r", strategy()), None).await.unwrap();
    let halted = reaches(&client, "r", RolloutPhase::Halted).await;
    assert_eq!((halted.resumes, count(&halted, TargetPhase::Failed)), (Some(RolloutPhase::Waving), 1), "{halted:?}");
    assert_eq!(halted.troubles[0].error.as_deref(), Some("this agent dislikes it"));
    let touched = yard.generations();
    assert!(touched[4..] == [1, 1], "the next wave was touched: {touched:?}");
    stays("nothing more is touched", Duration::from_millis(800), async || yard.generations() == touched).await;

    let id = "r".parse().unwrap();
    let refused = client.command_rollout(&id, RolloutCommand::Pause, None).await.unwrap_err();
    assert!(refused.to_string().contains("is halted, which does not allow pause"), "{refused}");
    client.command_rollout(&id, RolloutCommand::Rollback, None).await.unwrap();
    let back = reaches(&client, "r", RolloutPhase::RolledBack).await;
    assert_eq!(count(&back, TargetPhase::Overtaken), 0, "{back:?}");
    assert!(yard.with_setting(SETTING).is_empty());
    assert_eq!(yard.generations().iter().map(|now| now % 2).sum::<i64>(), 6, "untouched: 1, back again: 3");
    assert!(yard.most_at_once() <= 2);
    nobody_twice(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_become_healthy_in_time_is_accepted_by_a_resume() {
    let Some(fleet) = Fleet::start("who_does_not_become_healthy_in_time_is_accepted_by_a_resume").await else { return };
    let leader = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&leader]);
    let yard = Yard::open(4, TAKES, &client).await;
    yard.agents[0].hangs_on(SETTING);
    client.start_rollout(&request("r", RolloutStrategy { gate_timeout_s: 1, ..strategy() }), None).await.unwrap();
    let halted = reaches(&client, "r", RolloutPhase::Halted).await;
    assert_eq!(halted.resumes, Some(RolloutPhase::Canary));
    assert_eq!(halted.troubles[0].error.as_deref(), Some("it did not apply it and run in time"));
    client.command_rollout(&"r".parse().unwrap(), RolloutCommand::Resume, Some("known")).await.unwrap();
    let done = reaches(&client, "r", RolloutPhase::Done).await;
    assert_eq!((count(&done, TargetPhase::GivenUp), count(&done, TargetPhase::Healthy)), (1, 3), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_and_an_abort_ends() {
    let Some(fleet) = Fleet::start("a_pause_holds_and_an_abort_ends").await else { return };
    let leader = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&leader]);
    let yard = Yard::open(5, TAKES, &client).await;
    client.start_rollout(&request("r", strategy()), None).await.unwrap();
    reaches(&client, "r", RolloutPhase::Soaking).await;
    let id = "r".parse().unwrap();
    let paused = client.command_rollout(&id, RolloutCommand::Pause, None).await.unwrap();
    assert_eq!((paused.phase, paused.resumes), (RolloutPhase::Paused, Some(RolloutPhase::Soaking)));
    // Longer than the soak.
    stays("nothing is touched", Duration::from_millis(1500), async || yard.generations() == [2, 1, 1, 1, 1]).await;
    client.command_rollout(&id, RolloutCommand::Resume, None).await.unwrap();
    reaches(&client, "r", RolloutPhase::Waving).await;
    let aborted = client.command_rollout(&id, RolloutCommand::Abort, None).await.unwrap();
    assert_eq!(aborted.phase, RolloutPhase::Aborted);
    let page = client.rollout_computes(&id, &RolloutComputesQuery::default()).await.unwrap();
    let touched: Vec<i64> =
        page.computes.iter().map(|one| one.generation.map_or(1, pgfleet_api::Generation::get)).collect();
    // What was handed out is pushed all the same.
    pgfleet_harness::wait::wait_until("the agents have it", crate::PATIENCE, async || yard.generations() == touched)
        .await;
    stays("nothing more is touched", Duration::from_millis(800), async || yard.generations() == touched).await;
    assert!(touched.contains(&1), "{touched:?}");
    let metrics = leader.metrics().await;
    assert!(metrics.contains("storage_controller_rollouts{phase=\"waving\"} 0"), "{metrics}");
}
