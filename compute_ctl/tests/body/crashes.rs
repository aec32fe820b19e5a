//! Ends that nobody asked for, and what an earlier server or agent left behind.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Compute, kill, lives, postgres_program, spec};

async fn running(compute: &Compute) -> serde_json::Value {
    compute.until("running", |s| s["status"] == "running").await
}

async fn started(program: std::path::PathBuf) -> Compute {
    let compute = Compute::start(program, &[]).await;
    let (code, status) = compute.post("/spec", spec(json!([]), json!([]), json!([])).to_string()).await;
    assert_eq!(code, 200, "{status}");
    compute
}

/// A command run as PostgreSQL's user.
fn as_owner(compute: &Compute, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let owner = std::fs::metadata(compute.pgdata()).unwrap();
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if owner.uid() != std::fs::metadata("/proc/self").unwrap().uid() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command
}

#[tokio::test]
async fn a_busy_orphan_does_not_keep_the_next_server_from_starting() {
    let Some(program) = postgres_program() else { return };
    let compute = started(program).await;
    let busy = compute.superuser("postgres").await.unwrap();
    let pid: i32 = busy.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    // It never waits, so it does not notice that its postmaster is gone.
    let endless = busy.batch_execute("DO $$ DECLARE i int; BEGIN LOOP i := 1; END LOOP; END $$");
    let test = async {
        let seen = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
        compute.wait_for("busy", async || compute.admin(&seen).await.is_ok_and(|n| n == "1")).await;
        let dead = compute.postmaster().unwrap();
        let begun = Instant::now();
        kill(dead, "KILL");
        compute.until("another", |s| s["status"] == "running" && s["postgres"]["pid"] != dead).await;
        println!("running again after {} ms", begun.elapsed().as_millis());
        assert!(compute.agent_log().contains("signal: 9 (SIGKILL); nobody here sent it"));
        assert!(compute.agent_log().contains("its processes live: ending them (SIGQUIT)"));
        assert!(!lives(pid.unsigned_abs()));
        assert!((compute.metric("compute_ctl_postgres_crashes_total").await - 1.0).abs() < 0.1);
    };
    let (ended, ()) = tokio::join!(endless, test);
    assert!(ended.is_err());
}

#[tokio::test]
async fn a_killed_backend_is_no_end_of_the_server() {
    let Some(program) = postgres_program() else { return };
    let compute = started(program).await;
    let postmaster = compute.postmaster();
    let victim = compute.superuser("postgres").await.unwrap();
    let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    kill(pid.unsigned_abs(), "KILL");
    compute.wait_for("recovered", async || compute.admin("SELECT 'x'").await.is_ok_and(|x| x == "x")).await;
    let noticed = async || (compute.metric("compute_ctl_postgres_backend_crashes_total").await - 1.0).abs() < 0.1;
    compute.wait_for("noticed", noticed).await;
    assert_eq!(compute.metric("compute_ctl_postgres_crashes_total").await, 0.0);
    assert_eq!((compute.status().await["status"].as_str(), compute.postmaster()), (Some("running"), postmaster));
    assert!(compute.agent_log().contains("a process of PostgreSQL was ended by a signal"));
    // A spec is applied as ever.
    let wanted = spec(json!([]), json!([{"name": "after", "owner": "cloud_admin"}]), json!([]));
    assert_eq!(compute.post("/spec", wanted.to_string()).await.0, 200);
}

#[tokio::test]
async fn what_an_earlier_server_left_is_recognised() {
    let Some(program) = postgres_program() else { return };
    let mut compute = started(program.clone()).await;
    compute.signal_agent("TERM");
    compute.agent_ended().await;

    // A pid file whose number another process of the same user has by now, and the lock of its socket.
    let mut stranger = as_owner(&compute, "sleep").arg("60").spawn().unwrap();
    let (data, socket) = (compute.pgdata(), compute.dir.0.join("d.pgfleet/s"));
    let file = format!("{}\n{}\n1700000000\n{}\n", stranger.id(), data.display(), compute.pgport);
    std::fs::write(data.join("postmaster.pid"), format!("{file}{}\nlocalhost\n  1  1\nready\n", socket.display()))
        .unwrap();
    std::fs::write(socket.join(format!(".s.PGSQL.{}.lock", compute.pgport)), &file).unwrap();
    compute.start_agent(&[]).await;
    running(&compute).await;
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    // A server started by hand, where the agent could not get in.
    compute.signal_agent("TERM");
    compute.agent_ended().await;
    let mut by_hand = as_owner(&compute, &program);
    by_hand.arg("-D").arg(&data).args(["-p", &compute.pgport.to_string(), "-k", "", "-h", "127.0.0.1"]);
    let mut by_hand = by_hand.spawn().unwrap();
    let ready = || std::fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|text| text.contains("ready"));
    compute.wait_for("ready", async || ready()).await;
    compute.start_agent(&[]).await;
    let status = running(&compute).await;
    assert_ne!(status["postgres"]["pid"], by_hand.id());
    let deadline = Instant::now() + Duration::from_secs(10);
    while by_hand.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "two servers");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
