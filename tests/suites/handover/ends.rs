//! The end of a process: others lead first, then the port closes, and what is connected is answered to the last.

use std::time::{Duration, Instant};

use pgfleet_api::ErrorCode;
use pgfleet_api::auth::Scope;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{get, register};

/// A connection as a client keeps it.
struct Kept(TcpStream);

impl Kept {
    async fn open(member: &Controller) -> Self {
        Self(TcpStream::connect(member.url().trim_start_matches("http://")).await.unwrap())
    }

    /// The head of the answer, in lower case.
    async fn ask(&mut self, path: &str, token: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if length.is_none_or(|length| body.len() >= length.parse().unwrap()) {
                    return head.to_owned();
                }
            }
            assert_ne!(self.0.read_buf(&mut answer).await.unwrap(), 0, "cut in {text}");
        }
    }

    async fn is_closed(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.0.read(&mut [0; 1])).await.unwrap();
        assert_eq!(end.unwrap(), 0, "closed in order");
    }
}

/// SIGTERM on the leader: not ready at once; another one leads; the port refuses; kept connections are served, each with the
/// word that it closes, idle ones are closed a while later; a wait that would outlast the drain is told to go elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_answers_to_the_last() {
    const DRAIN: Duration = Duration::from_secs(6);
    let Some(fleet) = Fleet::start("a_process_that_ends_answers_to_the_last").await else { return };
    let long = |name| fleet.controller(name).lease("20s", "300ms").args(&["--drain", "6s"]);
    let a = long("a").start_leader().await;
    let b = long("b").start().await;
    b.follows(&a, PATIENCE).await;
    register(&fleet, &a, "c1").await;
    let token = fleet.keys().scope(Scope::Viewer);
    let (mut used, mut idle) = (Kept::open(&a).await, Kept::open(&a).await);
    for kept in [&mut used, &mut idle] {
        let head = kept.ask("/control/v1/compute/c1", &token).await;
        assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");
    }
    let mut waiting = JoinSet::new();
    let wait = get(&fleet, a.url(), "c1/wait?timeout_s=60").limit(PATIENCE * 2);
    waiting.spawn(async move { wait.send().await });
    let mut probe = Kept::open(&a).await;

    let told = Instant::now();
    a.process.terminate();
    // Answered on a connection of its own, because the port may be closed by now.
    wait_until("it says that it is not ready", PATIENCE, async || {
        let head = probe.ask("/ready", &token).await;
        if head.contains("connection: close") {
            assert!(head.starts_with("http/1.1 503"), "{head}");
            return true;
        }
        false
    })
    .await;
    b.leads(PATIENCE).await;
    wait_until("its port refuses", PATIENCE, async || {
        TcpStream::connect(a.url().trim_start_matches("http://")).await.is_err()
    })
    .await;
    let closed = Instant::now();
    assert!(told.elapsed() < DRAIN, "the port closes as soon as another one leads");
    let head = used.ask("/control/v1/compute/c1", &token).await;
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    used.is_closed().await;
    a.process.still_runs();

    idle.is_closed().await;
    let lingered = closed.elapsed();
    assert!(lingered >= Duration::from_millis(700), "its client may have been writing: {lingered:?}");
    assert!(waiting.try_join_next().is_none(), "the wait goes on to the end of the drain");
    let answer = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(answer.refusal(), (503, ErrorCode::ShuttingDown));
    assert_eq!((answer.header("x-pgfleet-executed"), answer.header("retry-after")), (Some("no"), Some("0")));
    assert_eq!(a.process.exit_code(PATIENCE).await, 0);
}

/// Nobody else is there: nothing is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_member_does_not_wait_for_a_successor() {
    let Some(fleet) = Fleet::start("the_last_member_does_not_wait_for_a_successor").await else { return };
    let a = fleet.controller("a").lease("20s", "300ms").args(&["--drain", "25s"]).start_leader().await;
    let told = Instant::now();
    a.process.terminate();
    assert_eq!(a.process.exit_code(PATIENCE).await, 0);
    assert!(told.elapsed() < Duration::from_secs(15), "it took {:?}", told.elapsed());
}
