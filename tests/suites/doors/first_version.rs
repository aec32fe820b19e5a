//! The commands of the agent's first version, as they were printed and as people type them.

use std::path::Path;
use std::process::{Command, Stdio};

use pgfleet_api::agent::ComputeState;
use pgfleet_harness::fleet::{Fleet, free_port};
use pgfleet_harness::http::Call;
use pgfleet_harness::process::{PATIENCE, Process};
use pgfleet_harness::programs::{program, workspace};
use pgfleet_harness::skip;
use pgfleet_harness::specs::ORDERS_PASSWORD;
use pgfleet_harness::wait::{wait_for, wait_until};

fn on_path(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// `curl -d "$(cat spec.json)" URL/spec`, typed into a shell; without curl the same bytes.
async fn send(spec: &Path, url: &str) -> String {
    if on_path("curl") {
        let line = format!("curl -sS -d \"$(cat {})\" {url}/spec", spec.display());
        let output = Command::new("/bin/sh").args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        return String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let text = std::fs::read_to_string(spec).unwrap();
    let call = Call::new("POST", format!("{url}/spec")).body(text.trim_end().to_owned());
    call.header("content-type", "application/x-www-form-urlencoded").send().await.body
}

/// It waits for a control plane that is not there, serves meanwhile, takes a bare spec from curl, and lets a role of it in.
#[tokio::test(flavor = "multi_thread")]
async fn first_version_commands() {
    let Some(fleet) = Fleet::start("first_version_commands").await else { return };
    let home = fleet.make_dir("first");
    std::fs::copy(workspace().join("examples/orders.json"), home.join("spec.json")).unwrap();
    let (http, postgres) = (free_port(), free_port());
    let internal = free_port();
    let mut command = Command::new(program("compute_ctl"));
    command.current_dir(&home).env_remove("PGFLEET_PAUSE_AT");
    let postgres_program = fleet.cluster().bin_dir().join("postgres");
    let connstr = format!("postgresql://cloud_admin@127.0.0.1:{postgres}/postgres");
    // A relative directory, a control plane that does not answer, no keys.
    command.args(["-i", "no-compute", "-p", "http://127.0.0.1:1", "-D", "data", "-C", &connstr]);
    command.arg("-b").arg(&postgres_program);
    command.args(["--external-http-port", &http.to_string(), "--internal-http-port", &internal.to_string()]);
    // Named in full so that whatever the test leaves is found by its directory.
    command.arg("--state-dir").arg(home.join("state"));
    let process = Process::start("first", command, &fleet.dir().join("logs/first.log"));
    let url = format!("http://127.0.0.1:{http}");

    let status = async || {
        process.still_runs();
        let answer = Call::new("GET", format!("{url}/status")).try_send().await.ok()?;
        Some(answer.json::<pgfleet_api::agent::AgentStatus>())
    };
    wait_for("it is empty and serves", PATIENCE, async || {
        status().await.filter(|status| status.status == ComputeState::Empty)
    })
    .await;
    let answer = send(&home.join("spec.json"), &url).await;
    wait_for("it runs", PATIENCE, async || status().await.filter(|status| status.status == ComputeState::Running))
        .await;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["status"], "running", "the call waits until the spec is applied: {answer}");

    let psql = fleet.cluster().bin_dir().join("psql");
    if psql.is_file() || on_path("psql") {
        let psql = if psql.is_file() { psql } else { "psql".into() };
        let database = format!("postgresql://orders_app@127.0.0.1:{postgres}/orders");
        let output = Command::new(psql)
            .args(["-XAt", "-c", "SELECT current_user || ' ' || current_setting('work_mem')", &database])
            .env("PGPASSWORD", ORDERS_PASSWORD)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "orders_app 12MB", "{}", String::from_utf8_lossy(&output.stderr));
    } else {
        skip("first_version_commands", "psql is not installed");
    }

    let postmaster = home.join("data/postmaster.pid");
    assert!(postmaster.exists(), "the data directory is relative to where it was started");
    process.terminate();
    assert_eq!(process.exit_code(PATIENCE).await, 0);
    wait_until("PostgreSQL is stopped", PATIENCE, async || !postmaster.exists()).await;
}
