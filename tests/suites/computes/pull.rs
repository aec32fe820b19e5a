//! An agent that nobody pushes to: it asks the members, one of which is dead, and asks again when it is told to.

use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::{ComputeId, ErrorCode, Generation};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::{marked, orders};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_pulls_from_any_member() {
    let Some(fleet) = Fleet::start("an_agent_pulls_from_any_member").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").start().await;
    b.follows(&a, PATIENCE).await;
    let client = fleet.client(&[&a]);
    let id: ComputeId = "c1".parse().unwrap();
    // The controller does not reach the agent, so that what arrives was pulled.
    let body = RegisterCompute {
        agent_url: "http://127.0.0.1:9".to_owned(),
        labels: Default::default(),
        spec: Some(orders()),
    };
    client.register(&id, &body).await.unwrap();

    let of = |compute: &str| fleet.keys().compute(compute);
    let path = format!("{}/compute/api/v2/computes/c1/spec", a.url());
    let refused = Call::new("GET", path.clone()).token(&of("c2")).send().await;
    assert_eq!(refused.refusal(), (403, ErrorCode::Forbidden), "{}", refused.body);
    let refused = Call::new("GET", path).send().await;
    assert_eq!(refused.status, 401, "{}", refused.body);
    let unknown = format!("{}/compute/api/v2/computes/c2/spec", a.url());
    let unknown = Call::new("GET", unknown).token(&of("c2")).send().await;
    assert_eq!(unknown.refusal(), (404, ErrorCode::UnknownCompute), "{}", unknown.body);

    // The member that follows hands the question on to the one that leads.
    let members = format!("http://127.0.0.1:9,{}", b.url());
    let agent = fleet.agent("c1").token(&of("c1")).args(&["-p", &members]).start().await;
    let first = agent.runs(Generation(1)).await;
    client.put_spec(&id, &marked("second"), None).await.unwrap();
    let told = Call::new("POST", format!("{}/refresh_configuration", agent.internal_url())).send().await;
    assert_eq!(told.status, 200, "{}", told.body);
    let second =
        agent.shows("the second spec", PATIENCE, |status| status.applied_generation == Some(Generation(2))).await;
    assert_eq!((second.term, second.boot_id), (first.term, first.boot_id));
    agent.runs(Generation(2)).await;
}
