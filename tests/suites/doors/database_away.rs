//! The controllers' database is away for a while: no answer is a lie, and nothing that was acknowledged is lost.

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::SpecView;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::load::Load;
use pgfleet_harness::postgres::StopMode;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::{mark_of, marked};
use pgfleet_harness::wait::wait_until;

/// Requests get 503 with `Retry-After` while it is away. When it is back, the same process serves again.
#[tokio::test(flavor = "multi_thread")]
async fn database_away() {
    let Some(fleet) = Fleet::with_own_server("database_away").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let token = fleet.keys().scope(Scope::Admin);
    let body = r#"{"agent_url": "http://127.0.0.1:1"}"#;
    let made = a.call("PUT", "/control/v1/compute/c1").token(&token).body(body).send().await;
    assert_eq!(made.status, 200, "{}", made.body);
    let call = |mark: &str| a.call("PUT", "/control/v1/compute/c1/spec").token(&token).body(marked(mark).to_string());
    let put = async |mark: &str| call(mark).send().await;
    assert_eq!(put("before").await.status, 202);

    fleet.cluster().stop(StopMode::Immediate).await.unwrap();
    for _ in 0..3 {
        let answer = put("meanwhile").await;
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        let row = a.call("GET", "/control/v1/leader").token(&token).send().await;
        assert_eq!(row.status, 503, "{}", row.body);
        assert!(row.header("retry-after").is_some(), "{row:?}");
    }
    assert_eq!(a.call("GET", "/live").send().await.status, 200);
    a.process.still_runs();

    fleet.cluster().start_again().await.unwrap();
    wait_until("it serves again", PATIENCE, async || put("after").await.status == 202).await;
    let view: SpecView = a.call("GET", "/control/v1/compute/c1/spec").token(&token).send().await.json();
    assert_eq!(mark_of(&view.spec), "after");
    let terms: Vec<i64> = fleet.history().await.iter().map(|(term, _, _)| *term).collect();
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
}

/// A crash and restart of the database under a load, well within the lease: nobody's request fails, nothing that was
/// accepted is lost, and nobody else leads.
#[tokio::test(flavor = "multi_thread")]
async fn database_restart_changes_no_leader() {
    let Some(fleet) = Fleet::with_own_server("database_restart_changes_no_leader").await else { return };
    let a = fleet.controller("a").lease("20s", "500ms").start_leader().await;
    let b = fleet.controller("b").lease("20s", "500ms").start().await;
    b.follows(&a, PATIENCE).await;
    let token = fleet.keys().scope(Scope::Admin);
    let body = r#"{"agent_url": "http://127.0.0.1:1"}"#;
    let made = a.call("PUT", "/control/v1/compute/c1").token(&token).body(body).send().await;
    assert_eq!(made.status, 200, "{}", made.body);
    let load = Load::start(&fleet, &[&a, &b], &["c1".parse().unwrap()]);
    load.goes_on("load before the restart", 30).await;
    fleet.cluster().restart(StopMode::Immediate).await.unwrap();
    load.goes_on("load after the restart", 30).await;
    load.finish().await.is_in_the_history(&fleet).await;
    assert_eq!(a.leads(PATIENCE).await.get(), 1);
    b.follows(&a, PATIENCE).await;
    assert_eq!(fleet.history().await, [(1, "first".to_owned(), None)]);
}
