//! The agent's life with a real PostgreSQL: first commands, restarts, crashes, ends.

mod support;

use serde_json::json;
use support::{Compute, alice, kill, lives, postgres_program, setting, spec};

#[tokio::test]
async fn first_commands_and_every_kind_of_restart() {
    let Some(program) = postgres_program() else { return };
    let closed = ["-p", "http://127.0.0.1:9"];
    let mut compute = Compute::start(program, &closed).await;
    assert_eq!(compute.status().await["status"], "empty");

    let wanted = spec(
        json!([alice(), {"name": "batch \"night\"", "encrypted_password": "6e72a8aa7a66f8f4aaad2b4a6f8bd0a3"}]),
        json!([{"name": "Orders 2026", "owner": "alice"}]),
        json!([setting("work_mem", "8MB"), setting("max_connections", "40")]),
    );
    let (code, status) = compute.post("/spec", wanted.to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    assert_eq!(status["pending_restart"], json!([]));
    let asked = "SELECT current_user || current_setting('work_mem') || current_setting('max_connections')";
    assert_eq!(compute.ask("alice", "pw1", "Orders 2026", asked).await.unwrap(), "alice8MB40");
    assert!(compute.ask("alice", "wrong", "Orders 2026", asked).await.is_err());
    assert!(compute.ask("cloud_admin", "", "postgres", asked).await.is_err(), "the superuser came in over TCP");

    // A killed agent leaves the server, and the next one goes on with it.
    let first = compute.postmaster().unwrap();
    compute.signal_agent("KILL");
    compute.agent_ended().await;
    assert!(lives(first));
    compute.start_agent(&closed).await;
    let status = compute.until("running again", |s| s["status"] == "running").await;
    assert_eq!(status["postgres"]["pid"], first);

    // A killed server is started again, once as a stranger's child and once as the agent's own.
    for dead in [first, 0] {
        let dead = if dead == 0 { compute.postmaster().unwrap() } else { dead };
        kill(dead, "KILL");
        let another = |s: &serde_json::Value| s["status"] == "running" && s["postgres"]["pid"] != dead;
        compute.until("running with another postmaster", another).await;
        assert_eq!(compute.ask("alice", "pw1", "Orders 2026", "SELECT 'x'").await.unwrap(), "x");
    }

    let last = compute.postmaster().unwrap();
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    assert!(!lives(last));

    // It brings its server back by itself.
    compute.start_agent(&closed).await;
    compute.until("running from the ledger", |s| s["status"] == "running").await;
    assert_eq!(compute.ask("alice", "pw1", "Orders 2026", asked).await.unwrap(), "alice8MB40");
}

#[tokio::test]
async fn ends() {
    let Some(program) = postgres_program() else { return };
    // Without ever having had a spec.
    let mut compute = Compute::start(program.clone(), &[]).await;
    assert_eq!(compute.post("/terminate?mode=immediate", "").await, (200, json!({"lsn": null})));
    assert_eq!(compute.agent_ended().await.code(), Some(0));

    // With a spec file; fast leaves the status to be read, immediate then cuts that short.
    std::fs::write(compute.dir.0.join("s.json"), spec(json!([]), json!([]), json!([])).to_string()).unwrap();
    compute.start_agent(&["-S", "s.json"]).await;
    compute.until("running", |s| s["status"] == "running").await;
    let postmaster = compute.postmaster().unwrap();
    assert_eq!(compute.post("/terminate", "").await.0, 200);
    assert!(!lives(postmaster));
    assert_eq!(compute.status().await["status"], "terminated");
    assert_eq!(compute.post("/terminate?mode=bogus", "").await.0, 400);
    let (code, error) = compute.post("/spec", spec(json!([]), json!([]), json!([])).to_string()).await;
    assert_eq!((code, &error["code"]), (412, &json!("invalid_state")));
    assert_eq!(compute.post("/terminate?mode=immediate", "").await.0, 201);
    assert_eq!(compute.agent_ended().await.code(), Some(0));
}

#[tokio::test]
async fn start_up_refusals() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &[]).await;
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    let dir = compute.dir.0.clone();
    std::fs::create_dir_all(dir.join("foreign")).unwrap();
    std::fs::write(dir.join("foreign/PG_VERSION"), "15").unwrap();
    std::fs::create_dir_all(dir.join("forgot")).unwrap();
    std::fs::write(dir.join("forgot/ledger.json"), "{").unwrap();
    std::fs::write(dir.join("bad.json"), "{\"cluster\": ").unwrap();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy_port = busy.local_addr().unwrap().port().to_string();
    // Flags that replace the usual ones, the exit code, and a word of the line.
    let rows: [(&[&str], i32, &str); 9] = [
        (&["-b", "/bin/ls"], 64, "not a PostgreSQL server"),
        (&["-b", "/nowhere/postgres"], 64, "no PostgreSQL server"),
        (&["-C", "host=x"], 64, "-C"),
        (&["--http-host", "0.0.0.0"], 64, "--jwks-file"),
        (&["-S", "bad.json"], 64, "line 1 column 12"),
        (&["-D", "foreign"], 78, "--adopt"),
        (&["--state-dir", "forgot"], 78, "ledger"),
        (&["--unknown-flag"], 64, "--unknown-flag"),
        (&["--external-http-port", &busy_port], 1, "in use"),
    ];
    for (flags, code, word) in rows {
        let mut arguments = std::collections::BTreeMap::from([
            ("-i", "no-compute".to_owned()),
            ("-D", "d".to_owned()),
            ("-C", format!("postgresql://cloud_admin@127.0.0.1:{}/postgres", compute.pgport)),
            ("-b", support::postgres_program().unwrap().display().to_string()),
            ("--external-http-port", "0".to_owned()),
            ("--internal-http-port", "0".to_owned()),
        ]);
        arguments.insert(flags[0], flags.get(1).map(|value| (*value).to_owned()).unwrap_or_default());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_compute_ctl"));
        command.current_dir(&dir).env("RUST_LOG", "error");
        for (flag, value) in &arguments {
            command.arg(flag).args((!value.is_empty()).then_some(value));
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("compute_ctl: error: ") && said.contains(word), "{said}");
    }
}

#[tokio::test]
async fn a_spec_is_pulled_when_the_control_plane_has_one() {
    let Some(program) = postgres_program() else { return };
    // It does not know the compute at first, then has no spec, then has one.
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let answer = {
        let asked = std::sync::Arc::clone(&asked);
        move || async move {
            let fence = json!({"cluster_id": "11111111-1111-4111-8111-111111111111", "compute_id": "no-compute",
                "term": 3, "generation": 4, "spec_hash": "a".repeat(64)});
            match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => (http::StatusCode::NOT_FOUND, axum::Json(json!({"code": "unknown_compute", "msg": "no"}))),
                1 => (http::StatusCode::OK, axum::Json(json!({"status": "empty", "spec": null}))),
                _ => {
                    let spec = spec(json!([alice()]), json!([]), json!([]));
                    (http::StatusCode::OK, axum::Json(json!({"status": "attached", "spec": spec, "fence": fence})))
                }
            }
        }
    };
    let routes = axum::Router::new().route("/compute/api/v2/computes/no-compute/spec", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let serving = axum::serve(listener, routes);
    let test = async {
        let compute = Compute::start(program, &["-p", &uri]).await;
        let status = compute.until("running", |s| s["status"] == "running").await;
        assert_eq!((&status["term"], &status["applied_generation"]), (&json!(3), &json!(4)));
        assert_eq!(compute.ask("alice", "pw1", "postgres", "SELECT 'x'").await.unwrap(), "x");
    };
    tokio::select! {
        () = test => {}
        ended = async { serving.await } => panic!("the control plane ended: {ended:?}"),
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 3);
}
