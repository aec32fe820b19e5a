//! A leader that takes requests and breaks off: what is sent again, and what never is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgfleet_api::controller::Role;
use pgfleet_api::{ErrorCode, InstanceId};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_until;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{get, metric, put, register};

/// Says that it leads; takes every write and every first read of a path and cuts the connection.
struct FakeLeader {
    url: String,
    instance_id: InstanceId,
    writes: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

const TERM: i64 = 100;

impl FakeLeader {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, instance_id) = (format!("http://{}", listener.local_addr().unwrap()), InstanceId::generate());
        let (writes, reads) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let leader = json!({"instance_id": instance_id, "term": TERM, "address": url});
        let status = json!({"role": "leader", "instance_id": instance_id, "address": url, "version": "fake",
            "term": TERM, "leader": leader});
        let mut tasks = JoinSet::new();
        let seen = (writes.clone(), reads.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (status, seen) = (status.to_string(), seen.clone());
                connections.spawn(async move { serve(stream, &status, &seen.0, &seen.1).await });
            }
        });
        Self { url, instance_id, writes, reads, _tasks: tasks }
    }
}

async fn serve(mut stream: TcpStream, status: &str, writes: &AtomicUsize, reads: &AtomicUsize) {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let body = match request.get(..12).unwrap_or_default() {
        b"GET /status " => status,
        [b'P', b'U', b'T', ..] => return drop(writes.fetch_add(1, Ordering::SeqCst)),
        b"GET /control" if request.starts_with(b"GET /control/v1/compute") => {
            if reads.fetch_add(1, Ordering::SeqCst) == 0 {
                return;
            }
            "{\"from\": \"the fake\"}"
        }
        _ => return,
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

/// A write that was sent is not sent again, and its client is told that nobody knows; a read is.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_executed_is_not_sent_again() {
    let Some(fleet) = Fleet::start("what_may_have_been_executed_is_not_sent_again").await else { return };
    let a = fleet.controller("a").lease("60s", "300ms").start_leader().await;
    register(&fleet, &a, "c1").await;
    let fake = FakeLeader::start().await;
    let sql = format!(
        "UPDATE leader SET term = {TERM}, instance_id = '{}', address = '{}', lease_ms = 600000, renewals = renewals + 1",
        fake.instance_id, fake.url
    );
    fleet.database().await.execute(sql.as_str(), &[]).await.unwrap();
    wait_until("the member believes in the fake", PATIENCE, async || {
        let status = a.is(Role::Candidate, PATIENCE).await;
        status.leader.is_some_and(|leader| leader.instance_id == fake.instance_id)
    })
    .await;

    let unknown = put(&fleet, a.url(), "c1", "sent once").send().await;
    assert_eq!(unknown.refusal(), (503, ErrorCode::OutcomeUnknown));
    assert_eq!(unknown.header("x-pgfleet-executed"), None, "it may have been");
    assert!(unknown.header("retry-after").is_some());
    assert_eq!(fake.writes.load(Ordering::SeqCst), 1, "sent once");
    assert_eq!(metric(a.url(), "storage_controller_requests_failed_total{code=\"outcome_unknown\"}").await, 1.0);

    let read = get(&fleet, a.url(), "c1").send().await;
    assert_eq!((read.status, read.body.as_str()), (200, "{\"from\": \"the fake\"}"));
    assert_eq!(fake.reads.load(Ordering::SeqCst), 2, "sent again");
}
