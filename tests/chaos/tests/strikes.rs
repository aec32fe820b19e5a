//! The faults strike a real fleet and a real PostgreSQL as they say: links, clocks, and what is done to the database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{RegisterCompute, WaitOutcome};
use pgfleet_api::controller::{ControllerStatus, Role, TakeOverRequest};
use pgfleet_api::{ComputeId, InstanceId};
use pgfleet_chaos::cast::{Cast, Life, MEMBERS};
use pgfleet_chaos::database;
use pgfleet_chaos::faults::proxy::Mode;
use pgfleet_clients::controller::{ControllerClient, Options};
use pgfleet_clients::token::Grant;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::postgres::{TestClient, connect};
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::{stays, wait_for, wait_until};
use rustix::process::Signal;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);
/// Within this time nothing comes about, where nothing may.
const SILENCE: Duration = Duration::from_millis(400);

async fn status(cast: &Cast, index: usize) -> Option<ControllerStatus> {
    let call = Call::new("GET", format!("{}/status", cast.members[index].url)).limit(Duration::from_secs(1));
    Some(call.try_send().await.ok()?.json())
}

async fn is(cast: &Cast, index: usize, role: Role) -> ControllerStatus {
    wait_for(&format!("member {index} is {}", role.as_str()), LIMIT, async || {
        status(cast, index).await.filter(|status| status.role == role)
    })
    .await
}

/// One leads, the others follow, each behind proxies.
async fn boot(fleet: &Fleet, members: usize, with_clocks: bool) -> Cast {
    let mut cast = Cast::new(fleet, with_clocks).await;
    for index in 0..members {
        cast.launch(fleet, index, Life::default());
        is(&cast, index, if index == 0 { Role::Leader } else { Role::Candidate }).await;
    }
    cast
}

fn client(fleet: &Fleet, cast: &Cast) -> ControllerClient {
    pgfleet_clients::install_crypto_provider();
    let members = cast.members.iter().take(MEMBERS).map(|member| member.url.clone()).collect();
    ControllerClient::new(members, fleet.keys().source(), Options::default()).unwrap()
}

/// A fleet works as without proxies, all its traffic goes through them, and each of its links can be struck.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_lives_behind_proxies() {
    let Some(fleet) = Fleet::start("a_fleet_lives_behind_proxies").await else { return };
    let mut cast = boot(&fleet, MEMBERS, false).await;
    let id: ComputeId = "one".parse().unwrap();
    cast.add_agent(&fleet, &id).await;
    let client = client(&fleet, &cast);
    let agent_url = format!("http://{}", cast.agent_links[0].addr());
    let body = RegisterCompute { agent_url, labels: BTreeMap::new(), spec: Some(marked("first")) };
    client.register(&id, &body).await.unwrap();
    client.take_over(&cast.members[1].url, &TakeOverRequest::default(), LIMIT).await.unwrap();
    assert_eq!(is(&cast, 1, Role::Leader).await.address, cast.members[1].links.advertised());
    is(&cast, 0, Role::Candidate).await;
    let second = client.put_spec(&id, &marked("second"), None).await.unwrap().generation;
    assert_eq!(client.wait(&id, Some(second), LIMIT).await.unwrap().outcome, WaitOutcome::Applied);
    assert!(cast.agent_links[0].counters().bytes() > 0);
    for member in &cast.members[..MEMBERS] {
        assert!(member.links.database.counters().bytes() > 0, "{} to the database", member.name);
        assert!(member.links.incoming.counters().bytes() > 0, "to {}", member.name);
    }

    // No spec comes through a link that is cut; it does when the link is back.
    cast.agent_links[0].set(Mode::Cut);
    let third = client.put_spec(&id, &marked("third"), None).await.unwrap().generation;
    let agent = cast.agents[0].as_ref().unwrap();
    stays("the agent has the second spec", SILENCE, async || {
        agent.status().await.is_none_or(|status| status.generation == Some(second))
    })
    .await;
    cast.heal_links();
    agent.runs(third).await;

    // A leader whose way to the database is silent loses the lead, and comes back as a candidate.
    cast.members[1].links.database.set(Mode::HalfOpen);
    let next = wait_for("another member leads", LIMIT, async || {
        for index in [0, 2] {
            if status(&cast, index).await.is_some_and(|status| status.role == Role::Leader) {
                return Some(index);
            }
        }
        None
    })
    .await;
    assert_ne!(status(&cast, 1).await.map(|status| status.role), Some(Role::Leader));
    assert!(cast.members[1].links.database.counters().struck() > 0);
    cast.heal_links();
    wait_until("the old leader follows", LIMIT, async || {
        let leader = status(&cast, next).await.map(|status| status.instance_id);
        let old = status(&cast, 1).await;
        old.is_some_and(|old| old.role == Role::Candidate && old.leader.map(|known| known.instance_id) == leader)
    })
    .await;
    assert_eq!(cast.end(LIMIT).await, Vec::<String>::new());
}

/// A member judges tokens by its wall clock, which is moved; its lease goes by another clock, which is not.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_wall_clock_of_a_member_jumps() {
    let name = "only_the_wall_clock_of_a_member_jumps";
    let Some(fleet) = Fleet::start(name).await else { return };
    let mut cast = boot(&fleet, 1, true).await;
    let Some(clock) = cast.members[0].links.clock.clone() else { return };
    let term = is(&cast, 0, Role::Leader).await.term;
    let url = format!("{}/control/v1/leader", cast.members[0].url);
    let answers = async |token: &str| Call::new("GET", &url).token(token).status().await;
    let grant = Grant::of(Scope::Admin);
    let (good, hour_old) = (fleet.keys().token(&grant), fleet.keys().expired(&grant));
    assert_eq!((answers(&good).await, answers(&hour_old).await), (200, 401));
    clock.jump(7200);
    assert_eq!((answers(&good).await, answers(&hour_old).await), (401, 401));
    clock.jump(-7200);
    assert_eq!((answers(&good).await, answers(&hour_old).await), (200, 200));
    clock.jump(0);
    assert_eq!((answers(&good).await, answers(&hour_old).await), (200, 401));
    // It renewed all the time, and goes on.
    let renewals =
        async || -> i64 { fleet.database().await.query_one("SELECT renewals FROM leader", &[]).await.unwrap().get(0) };
    let before = renewals().await;
    wait_until("it renews", LIMIT, async || renewals().await > before).await;
    assert_eq!(is(&cast, 0, Role::Leader).await.term, term);
    assert_eq!(cast.end(LIMIT).await, Vec::<String>::new());
}

async fn numbers(client: &TestClient) -> Vec<i32> {
    let rows = client.query("SELECT number FROM kept ORDER BY 1", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What is committed after the copy is gone when it was put back, what was before is not; and it can be done twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_put_back_lost_its_last_commits() {
    let Some(fleet) = Fleet::with_own_server("a_database_that_is_put_back_lost_its_last_commits").await else { return };
    fleet.database().await.batch_execute("CREATE TABLE kept (number int); INSERT INTO kept VALUES (1)").await.unwrap();
    database::copy(&fleet).await;
    for lost in [2, 3] {
        let session = fleet.database().await;
        session.execute("INSERT INTO kept VALUES ($1)", &[&lost]).await.unwrap();
        assert_eq!(numbers(&session).await, [1, lost]);
        database::put_back(&fleet).await;
        assert!(session.query("SELECT 1", &[]).await.is_err(), "a session outlived its server");
        assert_eq!(numbers(&fleet.database().await).await, [1]);
    }
}

/// All of PostgreSQL stands still, also the sessions that are open, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_answers_nobody() {
    let Some(fleet) = Fleet::with_own_server("a_frozen_database_answers_nobody").await else { return };
    let session = fleet.database().await;
    database::signal_all(&fleet, Signal::STOP);
    let mut answer = std::pin::pin!(session.query("SELECT 1", &[]));
    assert!(timeout(SILENCE, &mut answer).await.is_err(), "an open session answered");
    assert!(timeout(SILENCE, connect(fleet.database_url())).await.is_err(), "a new session was answered");
    database::signal_all(&fleet, Signal::CONT);
    timeout(LIMIT, answer).await.unwrap().unwrap();
}

/// Sessions of one member end, those of the others stay.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_sessions_of_one_member_are_ended() {
    let Some(fleet) = Fleet::start("only_the_sessions_of_one_member_are_ended").await else { return };
    let (struck, spared) = (InstanceId(uuid::Uuid::new_v4()), InstanceId(uuid::Uuid::new_v4()));
    let session_of = async |member: InstanceId| {
        connect(&format!("{}&application_name=pgfleet/{member}", fleet.database_url())).await.unwrap()
    };
    let (first, second, other) = (session_of(struck).await, session_of(struck).await, session_of(spared).await);
    database::end_sessions(&fleet, struck).await;
    wait_until("both have ended", LIMIT, async || first.is_closed() && second.is_closed()).await;
    other.query("SELECT 1", &[]).await.unwrap();
}

/// A lock is held until its session goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_is_held() {
    let Some(fleet) = Fleet::start("a_held_lock_is_held").await else { return };
    let fleet = Arc::new(fleet);
    let session = fleet.database().await;
    session.batch_execute("CREATE TABLE kept (number int); INSERT INTO kept VALUES (1)").await.unwrap();
    let held = database::hold(&fleet, "SELECT number FROM kept FOR UPDATE").await.unwrap();
    assert!(database::hold(&fleet, "SELECT number FROM kept FOR UPDATE").await.is_none(), "two hold it");
    let mut write = std::pin::pin!(session.execute("UPDATE kept SET number = 2", &[]));
    assert!(timeout(SILENCE, &mut write).await.is_err(), "it was written past the lock");
    drop(held);
    assert_eq!(timeout(LIMIT, write).await.unwrap().unwrap(), 1);
}
