//! A client that takes nothing costs the leader no more than a piece of its stream, and loses nothing by being cut.

use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::metric;

/// Lines of the journal, of a kilobyte each: more than the kernel holds for a connection.
const LINES: i64 = 30_000;
const JOURNAL: &str = "
    WITH line AS (SELECT last_change + n AS seq FROM change_cursor, generate_series(1, $1::bigint) n),
         told AS (INSERT INTO journal (at, change_seq, compute_id, term, kind, actor, detail)
                  SELECT now(), seq, 'c1', 1, 'action', 'test', jsonb_build_object('op', 'x', 'fill', repeat('x', 1000))
                  FROM line RETURNING change_seq)
    UPDATE change_cursor SET last_change = (SELECT max(change_seq) FROM told) RETURNING last_change";

struct Watch {
    stream: TcpStream,
    text: Vec<u8>,
    ids: Vec<i64>,
}

impl Watch {
    async fn open(fleet: &Fleet, member: &Controller, from: i64) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let address = member.url().strip_prefix("http://").unwrap();
        let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
        let token = fleet.keys().scope(Scope::Viewer);
        let head =
            format!("GET /control/v1/watch?from={from} HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream, text: Vec::new(), ids: Vec::new() }
    }

    /// Whether the kernel still has the leader's end; the client hears of it only when it reads.
    fn is_held_by_the_other_side(&self) -> bool {
        let port = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
        let (mine, its) = (port(self.stream.local_addr().unwrap()), port(self.stream.peer_addr().unwrap()));
        std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&its))
                && words.next().is_some_and(|remote| remote.ends_with(&mine))
        })
    }

    /// Reads on until an event of this change or later has come as a whole. `false`: the stream is over.
    async fn until(&mut self, change_seq: i64) -> bool {
        let mut buffer = vec![0; 64 << 10];
        while self.ids.last().is_none_or(|last| *last < change_seq) {
            let Ok(read @ 1..) = self.stream.read(&mut buffer).await else { return false };
            self.text.extend_from_slice(&buffer[..read]);
            while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                let event = String::from_utf8(event).unwrap();
                let id: Option<i64> = event.lines().find_map(|line| line.strip_prefix("id: ")?.parse().ok());
                if event.contains("\ndata: ") {
                    self.ids.extend(id);
                }
            }
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_stalls_is_cut_and_goes_on_without_a_gap() {
    let Some(fleet) = Fleet::start("a_watch_that_stalls_is_cut_and_goes_on_without_a_gap").await else { return };
    fleet.controller("first").start_leader().await;
    let database = fleet.database().await;
    let last: i64 = database.query_one(JOURNAL, &[&LINES]).await.unwrap().get(0);
    let leader = fleet.controller("leader").args(&["--client-stall", "1s"]).start_leader().await;
    let before = metric(&leader, "process_resident_memory_bytes").await;

    let mut stalled = Watch::open(&fleet, &leader, 0).await;
    assert!(stalled.until(last - LINES + 10).await, "{:?}", stalled.ids);
    // Nothing is read from here on.
    wait_until("the stalled client is cut", PATIENCE, async || !stalled.is_held_by_the_other_side()).await;
    let grown = metric(&leader, "process_resident_memory_bytes").await - before;
    assert!(grown < f64::from(24 << 20), "a watcher that takes nothing costs {grown} bytes");
    stalled.until(i64::MAX).await;
    let cursor = *stalled.ids.last().unwrap();
    assert!(cursor < last, "more than the kernel holds was to come");

    let mut resumed = Watch::open(&fleet, &leader, cursor).await;
    assert!(tokio::time::timeout(Duration::from_secs(60), resumed.until(last)).await.unwrap());
    let told = [stalled.ids, resumed.ids].concat();
    let lines: Vec<i64> = told.into_iter().filter(|id| *id > last - LINES).collect();
    assert!(lines.iter().copied().eq(last - LINES + 1..=last), "each once, in order");
}
