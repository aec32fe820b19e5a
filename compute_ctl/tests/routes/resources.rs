//! Readings and advice from a made-up tree, extensions on the metrics page, and the monitor socket.

use std::fs::create_dir_all;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{internal, running, superuser};
use crate::support::{Compute, postgres_program};

const MIB: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

fn group(dir: &Path) -> std::path::PathBuf {
    dir.join("cg/pods/pg")
}

/// A group with a limit of 1000 MiB that holds `anon` MiB.
fn write_tree(dir: &Path, anon: u64, kills: u64) {
    let group = group(dir);
    create_dir_all(&group).unwrap();
    let files = [
        ("memory.current", (900 * MIB).to_string()),
        ("memory.max", (1000 * MIB).to_string()),
        ("memory.high", "max\n".to_owned()),
        ("memory.stat", format!("anon 1\nactive_anon {}\ninactive_anon 0\n", anon * MIB)),
        ("memory.events", format!("oom 0\noom_kill {kills}\n")),
        (
            "memory.pressure",
            "some avg10=1.00 avg60=25.00 avg300=0.00 total=1\nfull avg10=0.50 avg60=0.25 avg300=0.00 total=1\n"
                .to_owned(),
        ),
    ];
    for (name, content) in files {
        // By rename: a reader never sees half of it.
        std::fs::write(group.join("new"), content).unwrap();
        std::fs::rename(group.join("new"), group.join(name)).unwrap();
    }
}

const TREE: [&str; 4] = ["--cgroup-root", "cg", "--cgroup", "pods/pg"];

#[tokio::test]
async fn readings_with_advice_and_without_a_new_status() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::prepare(program);
    write_tree(&compute.dir.0, 100, 2);
    compute.start_agent(&[&TREE[..], &["--memory-pressure-high", "0.3"]].concat()).await;
    let calm = compute.status().await;
    let resources = &calm["resources"];
    assert_eq!(resources["source"], "cgroup");
    assert_eq!(resources["memory_limit_bytes"], 1000 * MIB);
    assert_eq!(resources["memory_anon_bytes"], 100 * MIB);
    assert_eq!(resources["memory_pressure"]["some_avg60"], 0.25);
    assert_eq!((&resources["advice"], resources.get("cpu_pressure")), (&json!([]), None));
    assert_eq!(resources["suggested_settings"][0]["name"], "effective_cache_size");

    write_tree(&compute.dir.0, 900, 3);
    let busy = compute.until("short of memory", |s| s["resources"]["memory_anon_bytes"] == 900 * MIB).await;
    let advice = busy["resources"]["advice"].as_array().unwrap();
    assert_eq!(advice.len(), 2, "{advice:?}");
    assert!(advice[0].as_str().unwrap().starts_with("memory above 85 % of its limit"), "{advice:?}");
    assert!(advice[1].as_str().unwrap().contains("killed 1 processes"), "{advice:?}");
    assert_eq!(busy["status_seq"], calm["status_seq"], "readings are no change of the status");

    let page = compute.get("/metrics").await.1;
    for line in [
        "compute_ctl_memory_usage_bytes 943718400",
        "compute_ctl_memory_oom_kills_total 3",
        "compute_ctl_memory_pressure_ratio{kind=\"some\",window=\"60s\"} 0.25",
        "compute_ctl_resource_advice{reason=\"memory\"} 1",
        "compute_ctl_resource_advice{reason=\"pressure\"} 0",
        "compute_ctl_resource_advice{reason=\"oom_kills\"} 1",
    ] {
        assert!(page.as_str().unwrap().contains(line), "{line} is not in\n{page}");
    }
    for bad in [["--memory-high-ratio", "0"], ["--memory-pressure-high", "1.5"], ["--vm-monitor-addr", "x"]] {
        let output = compute.command(&bad).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{bad:?}");
    }
}

#[tokio::test]
async fn installed_extensions_are_counted() {
    let Some(program) = postgres_program() else { return };
    let compute = running(program, &["--installed-extensions-collection-interval", "1"]).await;
    let orders = superuser(&compute, "orders").await;
    orders.batch_execute("CREATE EXTENSION pg_stat_statements VERSION '1.8'").await.unwrap();
    let wanted = [
        "compute_installed_extensions{extension_name=\"pg_stat_statements\",version=\"1.8\",owned_by_superuser=\"1\"} 1",
        "compute_installed_extensions{extension_name=\"plpgsql\",version=\"1.0\",owned_by_superuser=\"1\"} 2",
        "compute_installed_extensions_omitted 0",
    ];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = internal(&compute, reqwest::Method::GET, "/metrics", Value::Null).await.1;
        let page = page.as_str().unwrap();
        if wanted.iter().all(|line| page.contains(line)) {
            break;
        }
        assert!(Instant::now() < deadline, "{page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Peer(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Peer {
    async fn open(compute: &Compute) -> Self {
        let ports = std::fs::read(compute.dir.0.join("ports.json")).unwrap();
        let ports: Value = serde_json::from_slice(&ports).unwrap();
        let (socket, _) =
            connect_async(format!("ws://127.0.0.1:{}/monitor", ports["ports"]["vm_monitor"])).await.unwrap();
        Self(socket)
    }

    async fn greeted(compute: &Compute) -> Self {
        let mut peer = Self::open(compute).await;
        assert_eq!(peer.ask(json!({"min": 1, "max": 1})).await, json!({"version": 1}));
        peer
    }

    async fn say(&mut self, text: String) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next words; none when the other end has closed.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.unwrap() {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return None,
            }
        }
    }

    /// Waits until the other end has closed, whatever it says before.
    async fn left(&mut self) {
        let closed = async { while self.hear().await.is_some() {} };
        assert!(timeout(PATIENCE, closed).await.is_ok(), "it is not closed");
    }

    async fn ask(&mut self, words: Value) -> Value {
        self.say(words.to_string()).await;
        self.hear().await.unwrap()
    }
}

fn message(kind: &str, content: Value, id: u64) -> Value {
    json!({"type": kind, "content": content, "id": id})
}

#[tokio::test]
async fn a_conversation_with_an_autoscaler() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::prepare(program);
    compute.environment.push(("AUTOSCALING", ""));
    write_tree(&compute.dir.0, 100, 0);
    compute.start_agent(&[&TREE[..], &["--vm-monitor-addr", "127.0.0.1:0"]].concat()).await;

    let mut other = Peer::open(&compute).await;
    let error = other.ask(json!({"min": 2, "max": 3})).await;
    assert!(error["error"].as_str().unwrap().contains("version 1"), "{error}");
    assert_eq!(other.hear().await, None);

    let mut peer = Peer::greeted(&compute).await;
    assert_eq!(peer.ask(message("HealthCheck", json!({}), 2)).await, json!({"type": "HealthCheck", "id": 2}));
    let granted = json!({"granted": {"cpu": 1.0, "mem": 1100 * MIB}});
    assert_eq!(
        peer.ask(message("UpscaleNotification", granted, 4)).await,
        json!({"type": "UpscaleConfirmation", "id": 4})
    );
    // 0.85 of what is left beside the kernel must be 100 MiB above the 100 MiB in use; until a sample is there it says so.
    let downscale = |mib: u64, id| message("DownscaleRequest", json!({"target": {"cpu": 0.5, "mem": mib * MIB}}), id);
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let answer = peer.ask(downscale(300, 6)).await;
        if answer["type"] == "DownscaleResult" {
            break answer;
        }
        assert_eq!((&answer["type"], &answer["id"]), (&json!("InternalError"), &json!(6)));
        assert!(Instant::now() < deadline);
    };
    assert_eq!((&refused["Ok"], &refused["id"]), (&json!(false), &json!(6)), "{refused}");
    let agreed = peer.ask(downscale(400, 8)).await;
    assert_eq!((&agreed["Ok"], &agreed["id"]), (&json!(true), &json!(8)), "{agreed}");

    for (text, id) in [("{", 0), (r#"{"type":"Dance","content":{},"id":10}"#, 10)] {
        peer.say(text.to_owned()).await;
        let answer = peer.hear().await.unwrap();
        assert_eq!((&answer["type"], &answer["id"]), (&json!("InvalidMessage"), &json!(id)), "{answer}");
    }
    peer.say(message("InvalidMessage", json!({"error": "what?"}), 12).to_string()).await;

    // Above 85 % of 300 MiB it asks for more by itself, with odd ids, once a second.
    write_tree(&compute.dir.0, 260, 0);
    let first = peer.hear().await.unwrap();
    let begun = Instant::now();
    assert_eq!(first, json!({"type": "UpscaleRequest", "id": 1}));
    assert_eq!(peer.hear().await.unwrap(), json!({"type": "UpscaleRequest", "id": 3}));
    assert!(begun.elapsed() > Duration::from_millis(900), "more than one wish a second");

    // A new one ends the old one.
    let mut second = Peer::greeted(&compute).await;
    peer.left().await;
    assert_eq!(second.ask(message("HealthCheck", json!({}), 2)).await["type"], "HealthCheck");

    // The agent's end is not held up by it.
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    second.left().await;
}

#[tokio::test]
async fn no_socket_without_autoscaling_and_no_patience_with_silence() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &[]).await;
    let ports = std::fs::read_to_string(compute.dir.0.join("ports.json")).unwrap();
    assert!(!ports.contains("vm_monitor"), "{ports}");
    assert_eq!(compute.get("/monitor").await.0, 404);
    compute.signal_agent("TERM");
    compute.agent_ended().await;
    compute.environment.push(("AUTOSCALING", "1"));
    compute.start_agent(&["--vm-monitor-addr", "127.0.0.1:0"]).await;
    let begun = Instant::now();
    assert_eq!(Peer::open(&compute).await.hear().await, None);
    assert!(begun.elapsed() >= Duration::from_secs(4), "cut too early");
}
