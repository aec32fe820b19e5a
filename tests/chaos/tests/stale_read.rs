//! A leader that lives behind a closed port is taken for dead and replaced while its lease runs. It cannot reach the database
//! either, so it does not know; it answers nothing that is older than what was acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{RegisterCompute, SpecView};
use pgfleet_api::controller::{ControllerStatus, Role};
use pgfleet_chaos::cast::{Cast, Life};
use pgfleet_chaos::faults::proxy::Mode;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::{Answer, Call};
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::{stays, wait_until};

/// Longer than the old leader's proof lasts.
const UNTIL_IT_KNOWS: Duration = Duration::from_secs(3);

async fn role(url: &str) -> Option<Role> {
    let call = Call::new("GET", format!("{url}/status")).limit(Duration::from_secs(1));
    Some(call.try_send().await.ok()?.json::<ControllerStatus>().role)
}

async fn put(fleet: &Fleet, url: &str, path: &str, body: String) -> Answer {
    let call = Call::new("PUT", format!("{url}/control/v1/compute/{path}"));
    call.token(&fleet.keys().scope(Scope::Infra)).header("content-type", "application/json").body(body).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_behind_a_closed_port_answers_nothing_old() {
    let Some(fleet) = Fleet::start("a_leader_behind_a_closed_port_answers_nothing_old").await else { return };
    answers_nothing_old(&fleet, Mode::HalfOpen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_behind_a_closed_port_and_without_sessions_answers_nothing_old() {
    let name = "a_leader_behind_a_closed_port_and_without_sessions_answers_nothing_old";
    let Some(fleet) = Fleet::start(name).await else { return };
    answers_nothing_old(&fleet, Mode::Cut).await;
}

/// The leader's link to the database is in this mode when its port closes.
async fn answers_nothing_old(fleet: &Fleet, database: Mode) {
    let mut cast = Cast::new(fleet, false).await;
    let (a, b) = (cast.members[0].url.clone(), cast.members[1].url.clone());
    cast.launch(fleet, 0, Life::default());
    wait_until("a leads", PATIENCE, async || role(&a).await == Some(Role::Leader)).await;
    cast.launch(fleet, 1, Life::default());
    wait_until("b follows", PATIENCE, async || role(&b).await == Some(Role::Candidate)).await;
    let agent_url = "http://127.0.0.1:1".to_owned();
    let body = RegisterCompute { agent_url, labels: BTreeMap::new(), spec: Some(marked("old")) };
    let body = serde_json::json!(body).to_string();
    assert!(put(fleet, &a, "one", body).await.status < 300);

    cast.members[0].links.database.set(database);
    cast.members[0].links.incoming.set(Mode::Cut);
    wait_until("b leads", PATIENCE, async || role(&b).await == Some(Role::Leader)).await;
    let told = put(fleet, &b, "one/spec", marked("new").to_string()).await;
    assert_eq!(told.status, 202, "{}", told.body);
    let token = fleet.keys().scope(Scope::Viewer);
    stays("a answers nothing old", UNTIL_IT_KNOWS, async || {
        let call = Call::new("GET", format!("{a}/control/v1/compute/one/spec")).token(&token);
        let answer = call.limit(Duration::from_millis(500)).try_send().await;
        // No answer and a refusal are both fine.
        !answer.is_ok_and(|answer| answer.status == 200 && answer.json::<SpecView>().generation.get() < 2)
    })
    .await;
}
