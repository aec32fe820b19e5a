//! Leadership ends in several ways; whichever it is, nothing of what the leader had begun acts afterwards. The witnesses
//! are agents that count what reaches them, and the database.

use std::net::TcpListener;
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::controller::{Role, StepDownResponse};
use pgfleet_harness::controller::{Controller, ControllerOptions};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::StopMode;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::{stays, wait_for, wait_until};

use super::agents::Agent;
use super::{metric, step_down};

/// How a leadership ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// An operator asks for it.
    StepDown,
    /// The row is somebody else's, and the leader learns it from the database.
    Fenced,
    /// The process is told to go.
    Terminated,
}

const WAYS: [Way; 3] = [Way::StepDown, Way::Fenced, Way::Terminated];

/// A leader that believes in its lease for a minute: nothing but the way itself ends it, and nobody reverts.
fn leader<'f>(fleet: &'f Fleet, name: &str) -> ControllerOptions<'f> {
    let patient = ["--step-down-revert", "40s", "--step-down-hold", "50s"];
    fleet.controller(name).lease("60s", "300ms").probe_interval("50ms").args(&patient)
}

/// Ends the leadership of `a` and waits until it has ended. After a step-down: whether everything ended in time.
async fn lose(way: Way, fleet: &Fleet, a: &Controller) -> Option<bool> {
    match way {
        Way::StepDown => {
            let answer = step_down(fleet, a).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            return Some(answer.json::<StepDownResponse>().complete);
        }
        Way::Fenced => {
            // The one who leads now is silent and has a long lease, so `a` has to stay a candidate.
            let mute = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", mute.local_addr().unwrap());
            std::mem::forget(mute);
            let sql =
                "UPDATE leader SET term = term + 1, instance_id = gen_random_uuid(), address = $1, lease_ms = 60000";
            assert_eq!(fleet.database().await.execute(sql, &[&address]).await.unwrap(), 1);
            a.is(Role::Candidate, PATIENCE).await;
        }
        Way::Terminated => {
            a.process.terminate();
            assert_eq!(a.process.exit_code(PATIENCE).await, 0, "{way:?}");
        }
    }
    None
}

/// A push that is decided and about to be sent: it is not sent any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_about_to_be_sent() {
    for way in WAYS {
        let Some(fleet) = Fleet::start("a_push_about_to_be_sent").await else { return };
        let a = leader(&fleet, "a").probe_interval("60s").pause_at("before_push").start_leader().await;
        let agent = Agent::start("c1").await;
        agent.register(&fleet.client(&[&a])).await;
        a.process.paused_at("before_push").await;
        lose(way, &fleet, &a).await;
        a.process.go_on();
        agent.is_left_alone(&format!("after {way:?}")).await;
        assert_eq!(agent.calls().0, 0, "{way:?}");
    }
}

/// A push and a probe under way do not hold the end of a leadership, and are not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight() {
    for way in WAYS {
        let Some(fleet) = Fleet::start("calls_in_flight").await else { return };
        let a = leader(&fleet, "a").start_leader().await;
        let client = fleet.client(&[&a]);
        let (pushed, probed) = (Agent::start("pushed").await, Agent::start("probed").await);
        probed.register(&client).await;
        probed.has(1).await;
        probed.hang_on_probe();
        pushed.hang_on_push();
        pushed.register(&client).await;
        let (_, before) = probed.calls();
        wait_until("both calls hang", PATIENCE, async || pushed.calls().0 > 0 && probed.calls().1 > before).await;
        assert_ne!(lose(way, &fleet, &a).await, Some(false), "the calls held the step-down");
        pushed.is_left_alone(&format!("after {way:?}")).await;
        probed.is_left_alone(&format!("after {way:?}")).await;
    }
}

/// The sweep and the flush of what it sees: afterwards nobody asks, and what agents say since is not written.
#[tokio::test(flavor = "multi_thread")]
async fn probes_and_observations() {
    for way in WAYS {
        let Some(fleet) = Fleet::start("probes_and_observations").await else { return };
        let a = leader(&fleet, "a").start_leader().await;
        let agent = Agent::start("c1").await;
        agent.register(&fleet.client(&[&a])).await;
        agent.has(1).await;
        agent.change();
        wait_until("what was seen is written", PATIENCE, async || written(&fleet).await == Some(1001)).await;
        lose(way, &fleet, &a).await;
        let cursor = async || -> i64 {
            let row = fleet.database().await.query_one("SELECT last_change FROM change_cursor", &[]).await.unwrap();
            row.get(0)
        };
        let before = cursor().await;
        agent.change();
        agent.is_left_alone(&format!("after {way:?}")).await;
        assert_eq!((written(&fleet).await, cursor().await), (Some(1001), before), "{way:?}");
    }
}

/// `status_seq` of what is stored of the compute `c1`.
async fn written(fleet: &Fleet) -> Option<i64> {
    let sql = "SELECT (observed->>'status_seq')::bigint FROM observed WHERE compute_id = 'c1'";
    fleet.database().await.query_opt(sql, &[]).await.unwrap().map(|row| row.get(0))
}

/// A flush that stands in its transaction when the leadership is taken away: nothing of it is ever committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_in_its_transaction() {
    let Some(fleet) = Fleet::start("a_flush_in_its_transaction").await else { return };
    let first = leader(&fleet, "first").start_leader().await;
    let agent = Agent::start("c1").await;
    agent.register(&fleet.client(&[&first])).await;
    wait_until("what was seen is written", PATIENCE, async || written(&fleet).await == Some(1000)).await;
    lose(Way::Terminated, &fleet, &first).await;

    agent.change();
    let a = leader(&fleet, "a").pause_at("in_write_tx").start_leader().await;
    a.process.paused_at("in_write_tx").await;
    a.process.freeze().await;
    // The next leader sees nothing of the agent, so it has nothing to write about it.
    agent.hang_on_probe();
    fleet.database().await.execute("UPDATE leader SET lease_ms = 1000", &[]).await.unwrap();
    let b = leader(&fleet, "b").start().await;
    assert_eq!(b.leads(PATIENCE).await.get(), 3);
    a.process.go_on();
    a.process.thaw();
    a.follows(&b, PATIENCE).await;
    stays("what the old leader saw is not written", Duration::from_millis(500), async || {
        written(&fleet).await == Some(1000)
    })
    .await;
}

/// A take-up that is told to end before it has loaded: it opens nothing, and no agent hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_up_before_its_load() {
    for way in WAYS {
        let Some(fleet) = Fleet::start("a_take_up_before_its_load").await else { return };
        let first = leader(&fleet, "first").start_leader().await;
        let agent = Agent::start("c1").await;
        agent.register(&fleet.client(&[&first])).await;
        agent.has(1).await;
        lose(Way::Terminated, &fleet, &first).await;

        let a = leader(&fleet, "a").pause_at("before_load").start().await;
        a.process.paused_at("before_load").await;
        a.is(Role::TakingOver, PATIENCE).await;
        let mut losing = Box::pin(lose(way, &fleet, &a));
        // The pause itself is a part of what has to end; where it cannot be cut it is let go once the role has changed.
        let early = tokio::time::timeout(Duration::from_secs(5), &mut losing).await;
        a.process.go_on();
        if early.is_err() {
            losing.await;
        }
        agent.is_left_alone(&format!("after {way:?}")).await;
        if way != Way::Terminated {
            assert_eq!(a.call("GET", "/leader").send().await.status, 503, "{way:?}");
            assert_eq!(metric(&a, "storage_controller_agent_probes_total", "").await, 0.0, "{way:?}");
        }
    }
}

/// A migration that is under way when its leader is told to go: nothing of it is there afterwards, and the next leader
/// runs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_under_way() {
    let Some(fleet) = Fleet::start("a_migration_under_way").await else { return };
    let first = leader(&fleet, "first").start_leader().await;
    lose(Way::Terminated, &fleet, &first).await;
    let dir = fleet.make_dir("migrations/").join("20990101000000_create_guard");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("up.sql"), "CREATE TABLE IF NOT EXISTS guard (x int);").unwrap();
    std::fs::write(dir.join("down.sql"), "DROP TABLE guard;").unwrap();
    let there = async || {
        let row = fleet.database().await.query_one("SELECT to_regclass('guard') IS NOT NULL", &[]).await.unwrap();
        row.get::<_, bool>(0)
    };
    let migrations = dir.parent().unwrap().to_str().unwrap().to_owned();
    let with = |name: &str| leader(&fleet, name).args(&["--dev", "--migrations-dir", &migrations]);

    let a = leader(&fleet, "a").args(&["--migrations-dir", &migrations]).pause_at("mid_migration").start().await;
    a.process.paused_at("mid_migration").await;
    a.process.terminate();
    a.process.exit_code(PATIENCE).await;
    assert!(!there().await, "nothing of the migration is left");
    with("b").start_leader().await;
    assert!(there().await, "the next leader ran it");
}

/// A `wait` that is under way does not outlive the leadership: it ends as not executed.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_under_way() {
    let Some(fleet) = Fleet::start("a_wait_under_way").await else { return };
    // Nothing is held: what the handler itself says is to be seen.
    let a = leader(&fleet, "a").rejecting().start_leader().await;
    let agent = Agent::start("c1").await;
    agent.register(&fleet.client(&[&a])).await;
    agent.has(1).await;
    let call = a
        .call("GET", "/control/v1/compute/c1/wait?generation=9&timeout_s=60")
        .token(&fleet.keys().scope(Scope::Viewer));
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { call.send().await });
    wait_for("the request is under way", PATIENCE, async || {
        (metric(&a, "storage_controller_http_requests_in_flight", "").await >= 2.0).then_some(())
    })
    .await;
    lose(Way::StepDown, &fleet, &a).await;
    let answer = tokio::time::timeout(Duration::from_secs(10), waiting.join_next()).await.expect("it was left waiting");
    let answer = answer.unwrap().unwrap();
    assert_eq!((answer.status, answer.header("x-pgfleet-executed")), (503, Some("no")), "{}", answer.body);
}

/// A leader whose database is away cannot prove its lease for ever: from then on it neither pushes nor asks, and a push
/// that it was about to send is not sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_cannot_be_proved() {
    let Some(fleet) = Fleet::with_own_server("a_lease_that_cannot_be_proved").await else { return };
    let a = fleet.controller("a").probe_interval("50ms").pause_at("before_push").start_leader().await;
    let (pushed, probed) = (Agent::start("pushed").await, Agent::start("probed").await);
    let client = fleet.client(&[&a]);
    pushed.register(&client).await;
    a.process.paused_at("before_push").await;
    probed.register(&client).await;
    probed.has(1).await;
    fleet.cluster().stop(StopMode::Immediate).await.unwrap();
    wait_until("the lease is not proved any more", PATIENCE, async || {
        a.call("GET", "/leader").send().await.status == 503
    })
    .await;
    // A probe that was sent in the last moment may still be on its way.
    wait_until("no call is under way", PATIENCE, async || {
        let before = probed.calls();
        tokio::time::sleep(Duration::from_millis(200)).await;
        probed.calls() == before
    })
    .await;
    a.process.go_on();
    probed.is_left_alone("while the lease is not proved").await;
    stays("the push is not sent", Duration::from_millis(300), async || pushed.calls().0 == 0).await;
}
