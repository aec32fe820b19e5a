//! Why a compute is as it is: each cause is made for real, and told by its code.

use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::explain::ExplainCode;
use pgfleet_api::{ErrorCode, Generation};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::{marked, orders};
use serde_json::json;

use super::fake::Fake;
use super::{converge, explained};

/// From "no spec" over "its agent does not answer" and "rejected" to "converged", at the leader and at a member that follows.
#[tokio::test(flavor = "multi_thread")]
async fn each_cause_has_its_code() {
    let Some(fleet) = Fleet::start("each_cause_has_its_code").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, pgfleet_harness::process::PATIENCE).await;
    let client = fleet.client(&[&b]);
    let nobody = RegisterCompute { agent_url: "http://127.0.0.1:1".to_owned(), labels: Default::default(), spec: None };
    let away = "away".parse().unwrap();
    client.register(&away, &nobody).await.unwrap();
    let none = explained(&client, "away", ExplainCode::NoSpec).await;
    assert!(!none.converged && none.next.is_none() && none.advice.is_some(), "{none:?}");

    client.put_spec(&away, &marked("first"), None).await.unwrap();
    let unreachable = explained(&client, "away", ExplainCode::AgentUnreachable).await;
    assert!(unreachable.says.contains("127.0.0.1:1") && unreachable.since.is_some(), "{unreachable:?}");
    let next = unreachable.next.unwrap();
    assert!(!next.says.is_empty(), "{next:?}");

    let agent = fleet.agent("c1").start().await;
    converge(&client, &agent, orders()).await;
    let fine = explained(&client, "c1", ExplainCode::Converged).await;
    assert!(fine.converged && fine.next.is_none() && fine.advice.is_none(), "{fine:?}");
    assert_eq!((fine.generation, fine.applied_generation), (Generation(1), Some(Generation(1))));

    let mut bad = marked("bad");
    bad["cluster"]["settings"][0] = json!({"name": "work_mem", "value": "many", "vartype": "string"});
    client.put_spec(&agent.id, &bad, None).await.unwrap();
    let rejected = explained(&client, "c1", ExplainCode::Rejected).await;
    assert!(rejected.says.contains("spec cluster.settings[0]: ") && !rejected.converged, "{rejected:?}");
    assert!(rejected.advice.unwrap().contains("pgfleet compute refresh c1"));

    let answer =
        a.call("GET", "/control/v1/compute/c9/explain").token(&fleet.keys().scope(pgfleet_api::auth::Scope::Viewer));
    assert_eq!(answer.send().await.refusal(), (404, ErrorCode::UnknownCompute));
}

/// An agent that answers a probe with an error is there: it is not explained as one that cannot be reached.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_refuses_a_probe_is_not_unreachable() {
    let Some(fleet) = Fleet::start("an_agent_that_refuses_a_probe_is_not_unreachable").await else { return };
    let leader = fleet.controller("a").start_leader().await;
    let client = fleet.client(&[&leader]);
    let agents = Fake::start().await;
    let id = "c1".parse().unwrap();
    let body = RegisterCompute { agent_url: agents.url(&id), labels: Default::default(), spec: Some(marked("probed")) };
    client.register(&id, &body).await.unwrap();
    explained(&client, "c1", ExplainCode::Converged).await;
    agents.fails_probes(true);
    let refuses = explained(&client, "c1", ExplainCode::AgentRefuses).await;
    assert!(refuses.says.contains("500"), "{refuses:?}");
    agents.fails_probes(false);
    explained(&client, "c1", ExplainCode::Converged).await;
}
