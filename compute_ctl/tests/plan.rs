//! What `POST /plan` says of a spec, that it does nothing, and what a spec costs that changes nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Compute, alice, kill, postgres_program, setting, spec};

const CLUSTER: &str = "11111111-1111-4111-8111-111111111111";

fn settings(pairs: &[(&str, &str)]) -> Value {
    let settings: Vec<_> = pairs.iter().map(|(name, value)| setting(name, value)).collect();
    spec(json!([]), json!([]), json!(settings))
}

async fn plan(compute: &Compute, body: &Value) -> Value {
    let (code, plan) = compute.post("/plan", body.to_string()).await;
    assert_eq!(code, 200, "{plan}");
    plan
}

/// Class of a setting in a plan.
fn class<'a>(plan: &'a Value, name: &str) -> &'a str {
    let settings = plan["settings"].as_array().unwrap();
    let found = settings.iter().find(|setting| setting["name"] == name);
    found.map_or("absent", |setting| setting["class"].as_str().unwrap())
}

/// Everything on disk that a plan could touch.
fn disk(compute: &Compute) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
    let files = ["d/pgfleet.conf", "d/postgresql.conf", "d.pgfleet/ledger.json", "d.pgfleet/pgfleet.conf.good"];
    let read = |name: &str| {
        let path: &Path = &compute.dir.0.join(name);
        let changed = path.metadata().and_then(|meta| meta.modified()).ok()?;
        Some((name.to_owned(), std::fs::read(path).ok()?, changed))
    };
    files.into_iter().filter_map(read).collect()
}

/// Lines of PostgreSQL's log from `from` on that have one of these words.
fn logged(compute: &Compute, from: usize, words: &[&str]) -> Vec<String> {
    let log = compute.postgres_log();
    let lines = log[from..].lines().filter(|line| words.iter().any(|word| line.contains(word)));
    lines.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn a_plan_says_what_would_be_done_and_does_nothing() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let first =
        spec(json!([alice()]), json!([{"name": "orders", "owner": "alice"}]), json!([setting("log_statement", "all")]));
    let told = plan(&compute, &first).await;
    assert_eq!(
        (&told["verdict"], &told["running"], &told["connections"]),
        (&json!("restart"), &json!(false), &json!(0))
    );
    let objects: Vec<_> = told["changes"].as_array().unwrap().iter().map(|change| &change["object"]).collect();
    assert_eq!(objects[..5], ["neon_superuser", "template1", "alice", "orders", "public.health_check"], "{told}");
    assert!(!compute.pgdata().exists());
    assert_eq!(compute.status().await["status_seq"], 1);

    let (code, status) = compute.configure(&first, None).await;
    assert_eq!(code, 200, "{status}");
    let told = plan(&compute, &first).await;
    assert_eq!((&told["verdict"], &told["changes"]), (&json!("no_op"), &json!([])), "{told}");

    let (before, begun, seen) = (disk(&compute), compute.postgres_log().len(), compute.published().await);
    let roles = json!([{"name": "alice", "encrypted_password": null,
        "options": [{"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}]}]);
    let other = json!([setting("work_mem", "7MB"), setting("max_connections", "77")]);
    let mut other = spec(roles, json!([{"name": "new", "owner": "alice"}]), other);
    other["restart_policy"] = json!("when_idle");
    other["what_is_this"] = json!(1);
    let told = plan(&compute, &json!({"spec": other, "compute_ctl_config": {}})).await;
    assert_eq!((&told["verdict"], &told["restart_policy"]), (&json!("restart"), &json!("when_idle")), "{told}");
    assert_eq!(told["ignored_fields"].as_array().unwrap().last(), Some(&json!("what_is_this")), "{told}");
    let changes: Vec<_> =
        told["changes"].as_array().unwrap().iter().map(|change| (&change["phase"], &change["object"])).collect();
    assert_eq!(changes, [(&json!("roles"), &json!("alice")), (&json!("databases"), &json!("new"))]);
    for (name, want) in [("work_mem", "reload"), ("max_connections", "restart"), ("log_statement", "reload")] {
        assert_eq!(class(&told, name), want, "{name} {told}");
    }
    assert!(!told.to_string().contains("SCRAM"), "{told}");

    // Two sessions would be cut.
    let (one, two) = tokio::join!(sleeper(&compute), sleeper(&compute));
    assert_eq!(plan(&compute, &other).await["connections"], 2);
    drop((one, two));

    // All that PostgreSQL refuses, in its own words; the first is what /configure answers with.
    let bad = settings(&[
        ("work_mem", "lots"),
        ("wrok_mem", "1"),
        ("max_connections", "0"),
        ("jit", "maybe"),
        ("block_size", "1"),
    ]);
    let told = plan(&compute, &bad).await;
    assert_eq!(told["verdict"], "refused", "{told}");
    for name in ["work_mem", "wrok_mem", "max_connections", "jit", "block_size"] {
        assert_eq!(class(&told, name), "invalid", "{name} {told}");
    }
    let msg =
        told["settings"].as_array().unwrap().iter().find(|s| s["name"] == "max_connections").unwrap()["msg"].clone();
    assert!(msg.as_str().unwrap().contains("1 .. 262143"), "{msg}");
    assert_eq!(disk(&compute), before, "a plan wrote something");
    assert_eq!(compute.published().await, seen);
    let written = logged(&compute, begun, &["SIGHUP", "CREATE", "ALTER", "DROP", "BEGIN", "SET "]);
    assert_eq!(written, Vec::<String>::new());
    let (code, error) = compute.configure(&bad, None).await;
    assert_eq!((code, &error["code"]), (422, &told["refusal"]["code"]), "{error}");
    assert_eq!(error["path"], format!("spec.{}", told["refusal"]["path"].as_str().unwrap()));

    let (code, error) = compute.post("/plan", json!({"spec": {}, "fence": 1}).to_string()).await;
    assert_eq!((code, &error["code"]), (422, &json!("invalid_body")), "{error}");
}

/// A session of a client, open until it is dropped.
async fn sleeper(compute: &Compute) -> tokio::task::JoinSet<()> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(compute.pgport).user("alice").password("pw1").dbname("orders");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let mut set = tokio::task::JoinSet::new();
    set.spawn(async move {
        let _open = client;
        let _ = connection.await;
    });
    set
}

#[tokio::test]
async fn a_fence_is_judged_as_well() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let fence = |term: i64, generation: i64, content: char| {
        json!({"cluster_id": CLUSTER, "compute_id": "no-compute", "term": term, "generation": generation,
            "spec_hash": content.to_string().repeat(64)})
    };
    let empty = settings(&[]);
    let (code, status) = compute.configure(&empty, Some(fence(5, 7, 'a'))).await;
    assert_eq!(code, 200, "{status}");
    let other = settings(&[("work_mem", "5MB")]);
    let rows = [
        (fence(4, 9, 'b'), "refused", json!("stale_term")),
        (fence(5, 6, 'b'), "refused", json!("stale_generation")),
        (fence(6, 7, 'b'), "refused", json!("fence_conflict")),
        (fence(5, 7, 'a'), "no_op", Value::Null),
        (fence(9, 8, 'b'), "reload", Value::Null),
    ];
    for (fence, verdict, code) in rows {
        let told = plan(&compute, &json!({"spec": other, "fence": fence})).await;
        assert_eq!((&told["verdict"], &told["refusal"]["code"]), (&json!(verdict), &code), "{fence} {told}");
    }
    assert_eq!(compute.status().await["term"], 5, "a plan raised the term");
    // Without one it is answered, and said that it would not be taken.
    let told = plan(&compute, &other).await;
    assert_eq!((&told["verdict"], told["notes"].as_array().map(Vec::len)), (&json!("reload"), Some(1)), "{told}");
}

#[tokio::test]
async fn a_value_is_what_postgresql_reads() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let begin = [
        ("work_mem", "4MB"),
        ("jit", "on"),
        ("checkpoint_timeout", "5min"),
        ("checkpoint_completion_target", "0.9"),
        ("synchronous_commit", "on"),
        ("wal_level", "replica"),
        ("max_wal_senders", "12"),
        ("shared_buffers", "128MB"),
        ("unix_socket_permissions", "0777"),
        ("wal_buffers", "-1"),
        ("log_connections", "on"),
        ("my.text", "a"),
    ];
    let (code, status) = compute.configure(&settings(&begin), None).await;
    assert_eq!(code, 200, "{status}");
    // The same in other words, and something else.
    let rows = [
        ("work_mem", "4096", "5MB", "reload"),
        ("work_mem", "0x1000", "4097kB", "reload"),
        ("jit", "y", "off", "reload"),
        ("checkpoint_timeout", "300 s", "301s", "reload"),
        ("checkpoint_completion_target", "9e-1", "0.8", "reload"),
        // Words that pg_settings does not list.
        ("synchronous_commit", "yes", "local", "reload"),
        ("wal_level", "hot_standby", "logical", "restart"),
        ("max_wal_senders", "0xC", "13", "restart"),
        ("shared_buffers", "0.125GB", "16MB", "restart"),
        ("unix_socket_permissions", "511", "0770", "restart"),
        // PostgreSQL's own choice is 4 MB here.
        ("wal_buffers", "4MB", "1MB", "restart"),
        ("log_connections", "1", "no", "reload"),
        ("my.text", "a", "A", "reload"),
    ];
    for (name, same, other, want) in rows {
        let with = |value: &str| {
            let pairs: Vec<_> = begin.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect();
            settings(&pairs)
        };
        let told = plan(&compute, &with(same)).await;
        assert_eq!((class(&told, name), &told["verdict"]), ("no_op", &json!("no_op")), "{name} = {same}: {told}");
        let told = plan(&compute, &with(other)).await;
        assert_eq!((class(&told, name), &told["verdict"]), (want, &json!(want)), "{name} = {other}: {told}");
    }
    // What is dropped goes back to what PostgreSQL's own files or its defaults say.
    let told = plan(&compute, &settings(&[])).await;
    for (name, want) in
        [("work_mem", "no_op"), ("max_wal_senders", "restart"), ("shared_buffers", "no_op"), ("my.text", "reload")]
    {
        assert_eq!(class(&told, name), want, "{name}: {told}");
    }

    // What waits for a restart still needs one; taking it back does not, and then nothing waits.
    let with = |name: &str, value: &str| settings(&[&begin[..], &[(name, value)]].concat());
    for (name, value) in [("max_worker_processes", "9"), ("max_connections", "99")] {
        let (_, status) = compute.configure(&with(name, value), None).await;
        assert_eq!(status["pending_restart"], json!([name]));
        assert_eq!(plan(&compute, &with(name, value)).await["verdict"], "restart");
        let told = plan(&compute, &settings(&begin)).await;
        assert_eq!((&told["verdict"], class(&told, name)), (&json!("reload"), "reload"), "{told}");
        let (_, status) = compute.configure(&settings(&begin), None).await;
        assert_eq!(status["pending_restart"], json!([]), "{name} is taken back and still waits");
    }
}

#[tokio::test]
async fn a_spec_that_changes_nothing_costs_no_session_and_no_write() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let body =
        json!([setting("log_statement", "all"), setting("log_connections", "on"), setting("log_min_messages", "log")]);
    let wanted = spec(json!([alice()]), json!([{"name": "orders", "owner": "alice"}]), body);
    for _ in 0..2 {
        let (code, status) = compute.configure(&wanted, None).await;
        assert_eq!(code, 200, "{status}");
    }
    // The monitor has its session by then, and the count of extensions is over.
    let watched = async || compute.status().await["activity"].is_object();
    compute.wait_for("watched", watched).await;
    let counted = async || compute.get("/metrics").await.1.to_string().contains("compute_installed_extensions{");
    compute.wait_for("counted", counted).await;
    let (before, begun) = (disk(&compute), compute.postgres_log().len());
    // The program that judges settings is not asked: its directory cannot be made again.
    let check = compute.pgdata().with_extension("pgfleet").join("check");
    std::fs::remove_dir_all(&check).unwrap();
    std::fs::write(&check, "").unwrap();
    let (code, status) = compute.configure(&wanted, None).await;
    assert_eq!(code, 200, "{status}");
    std::fs::remove_file(&check).unwrap();
    let costly = logged(&compute, begun, &["connection received", "SIGHUP", "SET ", "ALTER", "CREATE"]);
    assert_eq!(costly, Vec::<String>::new());
    let conf = |files: &[(String, Vec<u8>, std::time::SystemTime)]| {
        files.iter().filter(|(name, ..)| name.contains("conf")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(conf(&disk(&compute)), conf(&before), "a file was written");
    let asked = logged(&compute, begun, &["execute", "statement:"]);
    assert!(!asked.is_empty() && asked.iter().all(|line| line.contains(": SELECT ")), "{asked:?}");

    // A kept session that broke, or whose server is another one by now, is replaced without a word.
    let end =
        "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE application_name = 'compute_ctl'";
    let root = spec(
        json!([{"name": "alice", "encrypted_password": support::SCRAM_PW1,
        "options": [{"name": "SUPERUSER", "vartype": "bool"}]}]),
        json!([{"name": "orders", "owner": "alice"}]),
        json!([]),
    );
    let (code, status) = compute.configure(&root, None).await;
    assert_eq!(code, 200, "{status}");
    assert_eq!(compute.ask("alice", "pw1", "orders", end).await.unwrap(), "1", "one session is kept");
    let (code, status) = compute.configure(&root, None).await;
    assert_eq!(code, 200, "{status}");
    kill(compute.postmaster().unwrap(), "KILL");
    compute
        .until("started again", |status| status["status"] == "running" && status["postgres"]["pid"].is_number())
        .await;
    let (code, status) = compute.configure(&root, None).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
}
