//! The monitor with a real PostgreSQL: what keeps a compute awake, what does not, and since when it is idle.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use support::{Compute, alice, kill, postgres_program, setting, spec};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

/// A session of a client over TCP, with its connection in the set. Aborting the set ends it.
async fn login(compute: &Compute, database: &str, tasks: &mut JoinSet<()>) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(compute.pgport).user("alice").password("pw1").dbname(database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    client
}

/// An agent with a running PostgreSQL that uses these settings and features, and alice in it.
async fn running(settings: Value, features: Value) -> Option<Compute> {
    let compute = Compute::start(postgres_program()?, &[]).await;
    let mut wanted = spec(json!([alice()]), json!([{"name": "shop", "owner": "alice"}]), settings);
    wanted["features"] = features;
    let (code, status) = compute.configure(&wanted, None).await;
    assert_eq!(code, 200, "{status}");
    Some(compute)
}

fn reason(status: &Value) -> &Value {
    &status["activity"]["reason"]
}

async fn becomes(compute: &Compute, why: Value) -> Value {
    compute.until(&format!("awake because of {why}"), |status| *reason(status) == why && idle_known(status)).await
}

/// While it is idle the time grows; while it is awake it is 0.
fn idle_known(status: &Value) -> bool {
    let activity = &status["activity"];
    activity["idle_for_ms"].as_u64().is_some_and(|ms| activity["awake"] == json!(false) || ms == 0)
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse().unwrap()
}

#[tokio::test]
async fn clients_keep_it_awake_in_every_time_zone_and_the_agent_does_not() {
    let zone = json!([setting("TimeZone", "Asia/Kolkata")]);
    let Some(compute) = running(zone, json!([])).await else { return };
    let first = becomes(&compute, Value::Null).await;
    assert_eq!(first["last_active"], Value::Null, "the agent's own sessions are no activity: {first}");
    assert_eq!(first["activity"]["sessions"], 0, "{first}");
    let seq = first["status_seq"].clone();

    let mut tasks = JoinSet::new();
    let client = login(&compute, "shop", &mut tasks).await;
    client.batch_execute("BEGIN").await.unwrap();
    let open = becomes(&compute, json!("idle_in_transaction")).await;
    assert_eq!(open["activity"]["sessions"], 1, "{open}");
    client.batch_execute("COMMIT").await.unwrap();
    let before = Utc::now();
    // A pooler's session that rests does not keep it awake, and counts from when it came to rest.
    let rested = becomes(&compute, Value::Null).await;
    let last = time(&rested["last_active"]);
    assert!((before - last).abs() < chrono::Duration::seconds(3), "{last} for {before}: a time zone got in");
    assert_eq!(rested["activity"]["sessions"], 1);
    let (statement, busy) =
        tokio::join!(client.batch_execute("SELECT pg_sleep(2)"), becomes(&compute, json!("client_active")),);
    statement.unwrap();
    assert!(time(&busy["last_active"]) > last, "{busy}");
    let idle = becomes(&compute, Value::Null).await;
    assert!(time(&idle["last_active"]) > time(&busy["last_active"]), "it only moves forward: {idle}");
    assert_eq!(idle["status_seq"], seq, "a reading is no change of the document");

    let (_, page) = compute.get("/metrics").await;
    let page = page.as_str().unwrap();
    assert!(page.contains("\ncompute_ctl_awake 0\n") && page.contains("\ncompute_ctl_client_sessions 1\n"), "{page}");
    // A log with a line for every look would drown what matters.
    let log = compute.postgres_log();
    assert!(!log.contains("pg_stat_activity"), "{log}");
}

#[tokio::test]
async fn a_stranger_under_the_agents_name_counts() {
    let Some(compute) = running(json!([]), json!([])).await else { return };
    let mut tasks = JoinSet::new();
    let client = login(&compute, "shop", &mut tasks).await;
    client.batch_execute("SET application_name = 'compute_ctl:compute_monitor'; BEGIN").await.unwrap();
    becomes(&compute, json!("idle_in_transaction")).await;
}

#[tokio::test]
async fn standbys_do_not_count_and_logical_clients_and_backups_do() {
    let wal = json!([setting("wal_level", "logical"), setting("wal_sender_timeout", "60s")]);
    let Some(compute) = running(wal, json!([])).await else { return };
    let programs = postgres_program().unwrap().parent().unwrap().to_owned();
    let run = |name: &str, arguments: &[&str]| {
        let mut command = tokio::process::Command::new(programs.join(name));
        command.args(["-h", &socket_dir(&compute), "-p", &compute.pgport.to_string(), "-U", "cloud_admin"]);
        command.args(arguments).current_dir(&compute.dir.0).kill_on_drop(true);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let walsenders = "SELECT count(*)::text FROM pg_stat_get_wal_senders()";

    std::fs::create_dir(compute.dir.0.join("wal")).unwrap();
    let standby = run("pg_receivewal", &["-D", "wal", "--no-loop"]);
    let connected = async {
        while compute.ask("alice", "pw1", "postgres", walsenders).await.unwrap() != "1" {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), connected).await.unwrap();
    becomes(&compute, Value::Null).await;

    let slot = ["-d", "shop", "--slot=feed", "--create-slot", "--start", "-f", "feed.out", "--no-loop"];
    let logical = run("pg_recvlogical", &slot);
    becomes(&compute, json!("logical_replication")).await;
    drop(logical);
    becomes(&compute, Value::Null).await;

    let slow = ["-D", "copy", "-X", "none", "--max-rate=1024k", "-c", "fast"];
    let backup = run("pg_basebackup", &slow);
    becomes(&compute, json!("base_backup")).await;
    drop((backup, standby));
    becomes(&compute, Value::Null).await;
}

/// Where the superuser comes in without a password.
fn socket_dir(compute: &Compute) -> String {
    compute.dir.0.join("d.pgfleet/s").display().to_string()
}

#[tokio::test]
async fn a_session_between_two_looks_counts_with_the_feature() {
    let Some(compute) = running(json!([]), json!(["activity_monitor_experimental"])).await else { return };
    becomes(&compute, Value::Null).await;
    let mut tasks = JoinSet::new();
    drop(login(&compute, "shop", &mut tasks).await);
    becomes(&compute, json!("database_statistics")).await;
    becomes(&compute, Value::Null).await;
}

#[tokio::test]
async fn it_ends_only_if_it_is_idle() {
    let Some(mut compute) = running(json!([]), json!([])).await else { return };
    let mut tasks = JoinSet::new();
    let client = login(&compute, "shop", &mut tasks).await;
    compute.until("idle", |status| status["activity"]["idle_for_ms"].as_u64() >= Some(600)).await;
    client.batch_execute("BEGIN").await.unwrap();
    // At once: what it knew was that nobody had used it for so long.
    let (code, error) = compute.post("/terminate?mode=fast&if_idle_ms=500", "").await;
    assert_eq!((code, &error["code"]), (412, &json!("not_idle")), "{error}");
    client.batch_execute("COMMIT").await.unwrap();
    let (code, error) = compute.post("/terminate?mode=fast&if_idle_ms=60000", "").await;
    assert_eq!((code, &error["code"]), (412, &json!("not_idle")), "{error}");
    compute.until("idle for a second", |status| status["activity"]["idle_for_ms"].as_u64() >= Some(1000)).await;
    assert_eq!(compute.post("/terminate?mode=immediate&if_idle_ms=1000", "").await.0, 200);
    assert_eq!(compute.agent_ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_termination_of_an_earlier_leadership_is_refused() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &[]).await;
    let fence = |term: u64, generation: u64, content: &str| {
        json!({"cluster_id": "11111111-1111-4111-8111-111111111111", "compute_id": "no-compute",
            "term": term, "generation": generation, "spec_hash": content.repeat(64)})
    };
    let wanted = spec(json!([]), json!([]), json!([]));
    assert_eq!(compute.configure(&wanted, Some(fence(3, 5, "a"))).await.0, 200);
    let rows = [
        (fence(2, 5, "a"), "stale_term"),
        (fence(4, 4, "a"), "stale_generation"),
        (fence(4, 6, "b"), "fence_conflict"),
        (fence(3, 5, "a"), "stale_term"),
    ];
    for (fence, word) in rows {
        let (code, error) = compute.post("/terminate", json!({"fence": fence}).to_string()).await;
        assert_eq!((code, &error["code"]), (409, &json!(word)), "{error}");
    }
    assert_eq!(compute.status().await["term"], 4, "a higher term is kept by a refusal");
    let answer = compute.post("/terminate?mode=immediate", json!({"fence": fence(4, 5, "a")}).to_string()).await;
    assert_eq!(answer.0, 200, "{answer:?}");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_dead_postgresql_is_down_until_it_is_back() {
    let Some(compute) = running(json!([]), json!([])).await else { return };
    let up = becomes(&compute, Value::Null).await;
    assert_eq!(up["downtime"], json!({"current_ms": 0, "total_ms": 0}), "{up}");
    kill(compute.postmaster().unwrap(), "KILL");
    let down = compute.until("down", |status| status["downtime"]["total_ms"].as_u64() > Some(0)).await;
    let back = compute
        .until("up again", |status| status["status"] == "running" && status["downtime"]["current_ms"] == 0)
        .await;
    assert!(back["downtime"]["total_ms"].as_u64() >= down["downtime"]["total_ms"].as_u64(), "{down} {back}");
    let again = becomes(&compute, Value::Null).await;
    let since = again["activity"]["idle_for_ms"].as_u64().unwrap();
    assert!(since < 5_000, "idleness counts from when it came to run: {again}");
}
