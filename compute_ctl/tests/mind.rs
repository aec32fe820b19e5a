//! What the mind promises, on a real PostgreSQL: nothing strands a compute, and a crash leaves one spec, never a mixture.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Compute, SCRAM_PW1, alice, kill, postgres_program, setting, spec};

const CLUSTER: &str = "11111111-1111-4111-8111-111111111111";
/// How long a client is kept waiting at most.
const SOON: Duration = Duration::from_secs(20);

fn fence(generation: i64, content: char) -> Value {
    json!({"cluster_id": CLUSTER, "compute_id": "no-compute", "term": 1, "generation": generation,
        "spec_hash": content.to_string().repeat(64)})
}

fn role(name: &str, options: Value) -> Value {
    json!({"name": name, "encrypted_password": SCRAM_PW1, "options": options})
}

fn limit(connections: &str) -> Value {
    json!([{"name": "CONNECTION LIMIT", "value": connections, "vartype": "integer"}])
}

fn with(mut spec: Value, field: &str, value: &str) -> Value {
    spec[field] = json!(value);
    spec
}

fn internal(compute: &Compute) -> String {
    let ports = std::fs::read(compute.dir.0.join("ports.json")).unwrap();
    let ports: Value = serde_json::from_slice(&ports).unwrap();
    format!("http://127.0.0.1:{}", ports["ports"]["internal_http"])
}

/// `POST /refresh_configuration`.
async fn refresh(compute: &Compute) -> u16 {
    let url = format!("{}/refresh_configuration", internal(compute));
    reqwest::Client::new().post(url).send().await.unwrap().status().as_u16()
}

/// A session that ends with the value.
struct Session {
    client: tokio_postgres::Client,
    _connection: tokio::task::JoinSet<()>,
}

impl std::ops::Deref for Session {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

/// A session as a client has it, over TCP or, for the superuser, over the socket.
async fn session(compute: &Compute, user: &str) -> Session {
    let mut config = tokio_postgres::Config::new();
    config.port(compute.pgport).user(user).password("pw1").dbname("postgres");
    if user == "cloud_admin" {
        config.host_path(compute.pgdata().with_extension("pgfleet").join("s"));
    } else {
        config.host("127.0.0.1");
    }
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let mut driving = tokio::task::JoinSet::new();
    driving.spawn(async {
        // It ends with an error where PostgreSQL is restarted under it.
        let _ = connection.await;
    });
    Session { client, _connection: driving }
}

async fn text(client: &tokio_postgres::Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_newer_spec_does_not_wait_for_a_stuck_older_one() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let bob = |connections: &str| json!([alice(), role("bob", limit(connections))]);
    let first = spec(bob("1"), json!([]), json!([]));
    assert_eq!(compute.configure(&first, Some(fence(1, 'a'))).await.0, 200);

    // Somebody's open transaction holds bob, so a change of bob waits for it.
    let admin = session(&compute, "cloud_admin").await;
    admin.batch_execute("BEGIN; ALTER ROLE bob CONNECTION LIMIT 9").await.unwrap();
    let stuck = spec(bob("2"), json!([]), json!([]));
    let newer = spec(json!([alice(), role("carol", json!([]))]), json!([]), json!([setting("work_mem", "7MB")]));
    let begun = Instant::now();
    let (old, new) = tokio::join!(compute.configure(&stuck, Some(fence(2, 'b'))), async {
        let asked = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let watcher = session(&compute, "cloud_admin").await;
        while text(&watcher, asked).await == "0" {
            assert!(begun.elapsed() < SOON, "nothing waits for bob");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        compute.configure(&newer, Some(fence(3, 'c'))).await
    });
    assert_eq!((old.0, &old.1["generation"]), (202, &json!(3)), "{old:?}");
    assert_eq!((new.0, &new.1["applied_generation"]), (200, &json!(3)), "{new:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "the newer one waited for {:?}", begun.elapsed());

    // Nothing of the old one goes on at the server.
    admin.batch_execute("ROLLBACK").await.unwrap();
    let left = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'compute_ctl:apply'";
    assert_eq!(text(&admin, left).await, "0");
    let bobs = "SELECT rolconnlimit::text FROM pg_roles WHERE rolname = 'bob'";
    assert_eq!(text(&admin, bobs).await, "1");
    assert_eq!(compute.ask("carol", "pw1", "postgres", "SELECT current_setting('work_mem')").await.unwrap(), "7MB");
}

#[tokio::test]
async fn restart_policies() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let wants =
        |settings: Value, policy: &str| with(spec(json!([alice()]), json!([]), settings), "restart_policy", policy);
    let connections = |n: &str| json!([setting("max_connections", n)]);
    let asked = "SELECT current_setting('max_connections')";
    let first = wants(json!([setting("max_worker_processes", "8")]), "never");
    assert_eq!(compute.configure(&first, Some(fence(1, 'a'))).await.0, 200);
    let pid = compute.postmaster().unwrap();

    // A default that is no longer named: PostgreSQL says that it waits, and it is as it would be.
    let (_, status) = compute.configure(&wants(json!([]), "never"), Some(fence(2, 'b'))).await;
    let admin = session(&compute, "cloud_admin").await;
    let marked = "SELECT coalesce(string_agg(name, ','), '') FROM pg_settings WHERE pending_restart";
    assert_eq!((text(&admin, marked).await.as_str(), &status["pending_restart"]), ("max_worker_processes", &json!([])));

    // never: it waits, until somebody puts it back.
    let (_, status) = compute.configure(&wants(connections("41"), "never"), Some(fence(3, 'c'))).await;
    assert_eq!((&status["pending_restart"], &status["status"]), (&json!(["max_connections"]), &json!("running")));
    admin.batch_execute("ALTER SYSTEM SET max_connections = 100").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    compute.until("waits for nothing", |s| s["pending_restart"] == json!([])).await;
    admin.batch_execute("ALTER SYSTEM RESET max_connections").await.unwrap();
    assert_eq!(compute.postmaster(), Some(pid));

    // now.
    let (code, status) = compute.configure(&wants(connections("42"), "now"), Some(fence(4, 'd'))).await;
    assert_eq!((code, &status["pending_restart"], &status["status"]), (200, &json!([]), &json!("running")));
    assert_eq!(compute.ask("alice", "pw1", "postgres", asked).await.unwrap(), "42");
    let second = compute.postmaster().unwrap();
    assert_ne!(pid, second);
    assert_eq!(status["postgres"]["pid"], second);

    // when_idle: not while somebody is connected.
    let client = session(&compute, "alice").await;
    let (code, status) = compute.configure(&wants(connections("43"), "when_idle"), Some(fence(5, 'e'))).await;
    assert_eq!((code, &status["pending_restart"]), (200, &json!(["max_connections"])));
    // Longer than three looks.
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    assert_eq!(text(&client, asked).await, "42", "the client was cut");
    drop(client);
    let idle = |s: &Value| s["pending_restart"] == json!([]) && s["status"] == "running";
    let status = compute.until("restarted", idle).await;
    assert_ne!(status["postgres"]["pid"], second);
    assert_eq!(status["applied_generation"], 5);
    assert_eq!(compute.ask("alice", "pw1", "postgres", asked).await.unwrap(), "43");
}

#[tokio::test]
async fn a_spec_that_breaks_postgres_is_undone_with_its_roles() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &[]).await;
    let lib = |name: &str| json!([setting("shared_preload_libraries", name)]);
    let good = spec(json!([role("alice", limit("5"))]), json!([]), json!([setting("work_mem", "6MB")]));
    assert_eq!(compute.configure(&good, Some(fence(1, 'a'))).await.0, 200);
    let admin = async |compute: &Compute, sql: &str| text(&session(compute, "cloud_admin").await.client, sql).await;
    let limits = "SELECT rolconnlimit::text || current_setting('work_mem') FROM pg_roles WHERE rolname = 'alice'";

    // At once: PostgreSQL does not come back with it.
    let bad = spec(json!([role("alice", limit("7"))]), json!([]), lib("no_such_library"));
    let begun = Instant::now();
    let (code, error) = compute.configure(&with(bad.clone(), "restart_policy", "now"), Some(fence(2, 'b'))).await;
    assert_eq!((code, &error["code"]), (500, &json!("apply_failed")), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let status = compute.status().await;
    let generations = |s: &Value| (s["rejected_generation"].clone(), s["applied_generation"].clone());
    assert_eq!((&status["status"], generations(&status)), (&json!("failed"), (json!(2), json!(1))), "{status}");
    assert_eq!(status["error_detail"]["phase"], "start");
    assert_eq!(admin(&compute, limits).await, "56MB");

    // Later: its roles are in effect, then a crash shows what its settings are.
    let (code, status) = compute.configure(&bad, Some(fence(3, 'c'))).await;
    assert_eq!((code, &status["pending_restart"]), (200, &json!(["shared_preload_libraries"])), "{status}");
    assert_eq!(admin(&compute, "SELECT rolconnlimit::text FROM pg_roles WHERE rolname = 'alice'").await, "7");
    kill(compute.postmaster().unwrap(), "KILL");
    let status = compute.until("rolled back", |s| s["status"] == "failed").await;
    assert_eq!(generations(&status), (json!(3), json!(1)), "{status}");
    assert_eq!(admin(&compute, limits).await, "56MB", "roles of the spec that was undone are left");

    // keep: it stays, for somebody to look at, also in the next life; the next spec leads on.
    let kept = with(with(bad, "restart_policy", "now"), "on_failure", "keep");
    assert_eq!(compute.configure(&kept, Some(fence(4, 'd'))).await.0, 500);
    let status = compute.status().await;
    assert_eq!((&status["status"], &status["postgres"]), (&json!("failed"), &Value::Null), "{status}");
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    compute.start_agent(&[]).await;
    let status = compute.until("failed again", |s| s["status"] == "failed").await;
    assert_eq!((&status["postgres"], &status["rejected_generation"]), (&Value::Null, &json!(4)), "{status}");
    let (code, status) = compute.configure(&good, Some(fence(5, 'e'))).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
}

#[tokio::test]
async fn every_failed_object_is_named() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let roles = json!([role("pg_one", json!([])), alice(), role("pg_two", json!([]))]);
    let databases = json!([{"name": "orders", "owner": "alice"}]);
    assert_eq!(compute.configure(&spec(roles, databases, json!([])), Some(fence(1, 'a'))).await.0, 500);
    let status = compute.status().await;
    let named: Vec<_> = status["failures"].as_array().unwrap().iter().map(|f| (&f["object"], &f["sqlstate"])).collect();
    let reserved = json!("42939");
    assert_eq!(named, [(&json!("pg_one"), &reserved), (&json!("pg_two"), &reserved)], "{status}");
    assert_eq!(status["error_detail"], status["failures"][0]);
    assert_eq!(compute.ask("alice", "pw1", "orders", "SELECT 'in'").await.unwrap(), "in");
    let (_, status) = compute.configure(&spec(json!([alice()]), json!([]), json!([])), Some(fence(2, 'b'))).await;
    assert_eq!((&status["failures"], &status["error"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_refresh_reads_the_file_again() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::prepare(program);
    let file = compute.dir.0.join("c.json");
    let write = |memory: &str| {
        let spec = spec(json!([alice()]), json!([]), json!([setting("work_mem", memory)]));
        std::fs::write(&file, json!({"spec": spec}).to_string()).unwrap();
    };
    let asked = "SELECT current_setting('work_mem')";
    write("6MB");
    compute.start_agent(&["-c", "c.json"]).await;
    // While PostgreSQL is being started, it is remembered.
    write("7MB");
    assert_eq!(refresh(&compute).await, 200);
    let deadline = Instant::now() + SOON;
    while compute.ask("alice", "pw1", "postgres", asked).await.ok().as_deref() != Some("7MB") {
        assert!(Instant::now() < deadline, "{}", compute.agent_log());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    compute.until("running", |s| s["status"] == "running").await;

    // What cannot be read keeps it asking, and PostgreSQL serves; what can be read ends that.
    std::fs::write(&file, "{").unwrap();
    assert_eq!(refresh(&compute).await, 200);
    compute.until("asks", |s| s["status"] == "refresh_configuration_pending").await;
    assert_eq!(compute.ask("alice", "pw1", "postgres", asked).await.unwrap(), "7MB");
    write("8MB");
    compute.until("running", |s| s["status"] == "running").await;
    assert_eq!(compute.ask("alice", "pw1", "postgres", asked).await.unwrap(), "8MB");

    // A failed compute is led out of it.
    let reserved = spec(json!([role("pg_one", json!([]))]), json!([]), json!([]));
    assert_eq!(compute.post("/spec", reserved.to_string()).await.0, 500);
    assert_eq!(refresh(&compute).await, 200);
    compute.until("running", |s| s["status"] == "running" && s["error"].is_null()).await;

    // And so does a push, while it asks.
    std::fs::write(&file, "{").unwrap();
    assert_eq!(refresh(&compute).await, 200);
    compute.until("asks", |s| s["status"] == "refresh_configuration_pending").await;
    let pushed = spec(json!([alice()]), json!([]), json!([setting("work_mem", "9MB")]));
    let (code, status) = compute.post("/spec", pushed.to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    assert_eq!(compute.ask("alice", "pw1", "postgres", asked).await.unwrap(), "9MB");
}

#[tokio::test]
async fn a_detached_compute_ends() {
    let Some(program) = postgres_program() else { return };
    let attached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let answer = {
        let attached = std::sync::Arc::clone(&attached);
        move || async move {
            let spec = spec(json!([alice()]), json!([]), json!([]));
            axum::Json(if attached.load(std::sync::atomic::Ordering::SeqCst) {
                json!({"status": "attached", "spec": spec, "fence": fence(4, 'a')})
            } else {
                json!({"status": "empty", "spec": null})
            })
        }
    };
    let routes = axum::Router::new().route("/compute/api/v2/computes/no-compute/spec", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The first member of the list is not there.
    let uri = format!("http://127.0.0.1:9,http://{}", listener.local_addr().unwrap());
    let serving = axum::serve(listener, routes);
    let test = async {
        let mut compute = Compute::start(program, &["-p", &uri]).await;
        compute.until("running", |s| s["status"] == "running" && s["applied_generation"] == 4).await;
        // The same again is no change, and the compute runs on.
        assert_eq!(refresh(&compute).await, 200);
        compute.until("running again", |s| s["status"] == "running").await;
        let page = compute.get("/metrics").await.1;
        let counted = "compute_ctl_cplane_requests_total{rpc=\"GetConfig\",http_status=\"200 OK\"}";
        assert!(page.as_str().unwrap().contains(counted), "{page}");
        let postmaster = compute.postmaster().unwrap();
        attached.store(false, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(refresh(&compute).await, 200);
        assert_eq!(compute.agent_ended().await.code(), Some(1));
        assert!(std::fs::read_link(format!("/proc/{postmaster}/cwd")).is_err(), "PostgreSQL was left behind");
        assert!(compute.postgres_log().contains("database system is shut down"), "it was not stopped in order");
    };
    tokio::select! {
        () = test => {}
        ended = async { serving.await } => panic!("the control plane ended: {ended:?}"),
    }
}

#[tokio::test]
async fn a_refresh_needs_a_source_and_a_state() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    assert_eq!(refresh(&compute).await, 412, "without a source");
    let compute = Compute::start(postgres_program().unwrap(), &["-p", "http://127.0.0.1:9"]).await;
    assert_eq!(refresh(&compute).await, 412, "while it is empty");
    assert_eq!(compute.post("/terminate", "").await.0, 200);
    assert_eq!(refresh(&compute).await, 412, "when it has ended");
}

/// The agent is killed at every step between a spec's arrival and the note that it is in effect. The next life makes it
/// exactly the old or the new spec, and says so.
#[tokio::test]
async fn killed_at_every_step_it_has_one_spec() {
    let Some(program) = postgres_program() else { return };
    // The old spec reaches each point once or twice before.
    let points = [
        ("agent_before_fsync@3", false),
        ("agent_after_rename@3", true),
        ("agent_before_apply@2", true),
        ("agent_mid_apply@2", true),
        ("agent_before_good@2", true),
        ("agent_before_fsync@4", true),
        ("agent_after_rename@4", true),
    ];
    let content = |n: &str, database: &str| {
        spec(
            json!([role("alice", limit(n))]),
            json!([{"name": database, "owner": "alice"}]),
            json!([setting("work_mem", &format!("{n}MB"))]),
        )
    };
    for (point, is_new) in points {
        let mut compute = Compute::prepare(program.clone());
        compute.environment = vec![("PGFLEET_PAUSE_AT", point)];
        compute.start_agent(&["--dev"]).await;
        let (code, status) = compute.configure(&content("3", "old"), Some(fence(1, 'a'))).await;
        assert_eq!(code, 200, "{point}: {status}");
        let newer = content("4", "new");
        let request = compute.configure(&newer, Some(fence(2, 'b')));
        let name = point.split('@').next().unwrap();
        let paused = async {
            let deadline = Instant::now() + SOON;
            while !compute.agent_log().contains(&format!("pgfleet: paused at {name} pid ")) {
                assert!(Instant::now() < deadline, "never at {point}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            answer = request => panic!("{point}: answered before: {answer:?}"),
            () = paused => {}
        }
        compute.signal_agent("KILL");
        compute.agent_ended().await;
        compute.environment.clear();
        compute.start_agent(&[]).await;
        let generation = if is_new { 2 } else { 1 };
        let status = compute.until("running", |s| s["status"] == "running").await;
        let numbers = (&status["generation"], &status["applied_generation"], &status["rejected_generation"]);
        assert_eq!(numbers, (&json!(generation), &json!(generation), &Value::Null), "{point}: {status}");
        let admin = session(&compute, "cloud_admin").await;
        let limits = "SELECT rolconnlimit::text || current_setting('work_mem') FROM pg_roles WHERE rolname = 'alice'";
        assert_eq!(text(&admin, limits).await, if is_new { "44MB" } else { "33MB" }, "{point}");
        let databases = "SELECT count(*)::text FROM pg_database WHERE datname = 'new'";
        assert_eq!(text(&admin, databases).await, if is_new { "1" } else { "0" }, "{point}");
    }
}
