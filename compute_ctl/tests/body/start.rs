//! How the agent is started: flags that others know, and the ways to name a data directory.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Compute, alice, kill, postgres_program, spec};

#[tokio::test]
async fn flags_of_other_agents_are_no_error() {
    let Some(program) = postgres_program() else { return };
    let inline = spec(json!([alice()]), json!([]), json!([])).to_string();
    let flags = "-r http://gateway/x --cgroup g --filecache-connstr dbname=x --vm-monitor-addr 0.0.0.0:1 \
        --resize-swap-on-bind --set-disk-quota-for-fs /mnt --pg-init-timeout 60 --lakebase-mode false";
    let mut all: Vec<_> = flags.split_whitespace().collect();
    all.extend(["--spec", &inline]);
    let compute = Compute::start(program, &all).await;
    compute.until("running", |s| s["status"] == "running").await;
    assert_eq!(compute.admin("SELECT count(*) FROM pg_roles WHERE rolname = 'alice'").await.unwrap(), "1");
    assert_eq!(compute.agent_log().matches("is accepted and has no effect").count(), 6);
    assert_eq!(compute.agent_log().matches("--lakebase-mode is accepted").count(), 1);
}

#[tokio::test]
async fn a_data_directory_may_be_named_by_a_link() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::prepare(program);
    let real = compute.dir.0.join("disk/data");
    std::fs::create_dir_all(compute.dir.0.join("disk")).unwrap();
    std::os::unix::fs::symlink("disk/data", compute.pgdata()).unwrap();
    // Made behind the link, found again through it, whether with a slash or by its own name.
    for (named, state_dir) in [("d", "d.pgfleet"), ("d/", "d.pgfleet"), ("./disk/data//", "d.pgfleet")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_compute_ctl"));
        let ports = compute.dir.0.join("ports.json");
        let _ = std::fs::remove_file(&ports);
        let log = std::fs::File::create(compute.dir.0.join("agent.log")).unwrap();
        command.current_dir(&compute.dir.0).args(["-i", "no-compute", "--http-port", "0", "--port-file", "ports.json"]);
        command.args(["-D", named, "--state-dir", state_dir, "-b"]).arg(postgres_program().unwrap());
        command.arg("-C").arg(format!("postgresql://cloud_admin@127.0.0.1:{}/postgres", compute.pgport));
        command.args(["-s", &spec(json!([]), json!([]), json!([])).to_string()]);
        let mut agent = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let running = || compute.agent_log().contains("to=\"running\"");
        compute.wait_for("running", async || running()).await;
        assert!(real.join("PG_VERSION").exists() && !real.with_extension("pgfleet-new").exists());
        assert!(compute.pgdata().is_symlink());
        kill(agent.id(), "TERM");
        let deadline = Instant::now() + Duration::from_secs(30);
        while agent.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the agent does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // Another's is still refused through the link.
    std::fs::remove_file(real.join("pgfleet.json")).unwrap();
    let output = compute.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    compute.start_agent(&["--adopt"]).await;
    compute.until("running", |s| s["status"] == "running").await;
    assert!(real.join("pgfleet.json").exists());
}
