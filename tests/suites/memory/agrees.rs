//! At the same change a candidate's memory is what a fresh load would give.

use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::load::Load;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;

use super::{hand_over, is_warm, metric, registration};

/// Computes come, change, go and come again, agents report, the leadership goes round; every memory agrees all the time,
/// and one that led needs no load.
#[tokio::test(flavor = "multi_thread")]
async fn memories_agree_while_everything_moves() {
    let Some(fleet) = Fleet::start("memories_agree_while_everything_moves").await else { return };
    let a = fleet.controller("a").lease("5s", "500ms").memory_door().start_leader().await;
    let b = fleet.controller("b").lease("5s", "500ms").memory_door().start().await;
    let mut agents = Vec::new();
    for name in ["c1", "c2"] {
        let agent = fleet.agent(name).start().await;
        let body = pgfleet_api::compute::RegisterCompute {
            agent_url: agent.url().to_owned(),
            ..registration(Some(marked("first")))
        };
        fleet.client(&[&a]).register(&agent.id, &body).await.unwrap();
        agents.push(agent);
    }
    let c = fleet.controller("c").lease("5s", "500ms").memory_door().start().await;
    is_warm(&b).await;
    is_warm(&c).await;
    fleet.memories_agree(&[&b, &c]).await;

    let ids: Vec<_> = agents.iter().map(|agent| agent.id.clone()).collect();
    let load = Load::start(&fleet, &[&a, &b, &c], &ids);
    load.goes_on("load before", 50).await;
    fleet.memories_agree(&[&b, &c]).await;
    assert_eq!(hand_over(&fleet, &a, &b).await, 2);
    for round in 0..3 {
        let name = format!("passing-{round}").parse().unwrap();
        let client = fleet.client(&[&b]);
        client.register(&name, &registration(Some(marked("gone")))).await.unwrap();
        client.delete(&name).await.unwrap();
        client.register(&name, &registration(None)).await.unwrap();
    }
    load.goes_on("load after the first hand-over", 50).await;
    fleet.memories_agree(&[&a, &c]).await;
    assert_eq!(hand_over(&fleet, &b, &a).await, 3);
    load.goes_on("load after the second hand-over", 50).await;
    fleet.memories_agree(&[&b, &c]).await;
    load.finish().await.is_in_the_history(&fleet).await;
    for agent in &agents {
        agent.process.kill().await;
    }
    fleet.memories_agree(&[&b, &c]).await;
    for member in [&a, &b, &c] {
        let loads = metric(member, "storage_controller_follower_reads_total{read=\"load\"}").await;
        assert_eq!(loads, 1.0, "{} loaded once, at its start", member.process.name());
    }
}

/// A leader that ends without a word saves nothing; its successor and the next process agree all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_memories_in_agreement() {
    let Some(fleet) = Fleet::start("a_crash_leaves_memories_in_agreement").await else { return };
    let a = fleet.controller("a").memory_door().start_leader().await;
    let b = fleet.controller("b").memory_door().start().await;
    let c = fleet.controller("c").memory_door().start().await;
    for n in 0..20 {
        fleet
            .client(&[&a])
            .register(&format!("c{n}").parse().unwrap(), &registration(Some(marked("x"))))
            .await
            .unwrap();
    }
    is_warm(&b).await;
    a.process.kill().await;
    let (leader, candidate) = tokio::select! {
        _ = b.leads(PATIENCE) => (&b, &c),
        _ = c.leads(PATIENCE) => (&c, &b),
    };
    fleet.client(&[leader]).delete(&"c3".parse().unwrap()).await.unwrap();
    let d = fleet.controller("d").memory_door().start().await;
    fleet.memories_agree(&[candidate, &d]).await;
}

/// A leader that was frozen past its lease finds somebody else leading; what it holds then is the memory of a candidate.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_comes_back_and_agrees() {
    let Some(fleet) = Fleet::start("a_frozen_leader_comes_back_and_agrees").await else { return };
    let a = fleet.controller("a").memory_door().start_leader().await;
    let b = fleet.controller("b").memory_door().start().await;
    let agent = fleet.agent("c1").start().await;
    let body = pgfleet_api::compute::RegisterCompute {
        agent_url: agent.url().to_owned(),
        ..registration(Some(marked("first")))
    };
    fleet.client(&[&a]).register(&agent.id, &body).await.unwrap();
    is_warm(&b).await;
    a.process.freeze().await;
    b.leads(PATIENCE).await;
    let client = fleet.client(&[&b]);
    client.put_spec(&agent.id, &marked("second"), None).await.unwrap();
    client.register(&"c2".parse().unwrap(), &registration(None)).await.unwrap();
    client.delete(&"c2".parse().unwrap()).await.unwrap();
    a.process.thaw();
    a.follows(&b, PATIENCE).await;
    fleet.memories_agree(&[&a]).await;
    assert_eq!(hand_over(&fleet, &b, &a).await, 3);
    fleet.memories_agree(&[&b]).await;
}
