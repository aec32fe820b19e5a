//! A lean closed load: connections of HTTP/1.1, each with one request under way, all on one thread.
//!
//! Who calls it: the scenarios that ask how many requests fit into a second. It shares the machine with what it measures, so
//! it spends as little as it can: a request is written as bytes, an answer is read as far as its status and its length say.
//! Invariants: nothing is sent twice; an answer that is not what was expected ends the measurement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// Makes the bytes of a request: of which connection, the how many-th of it.
pub type Compose = Arc<dyn Fn(usize, usize, &mut Vec<u8>) + Send + Sync>;

/// Looks at the body of an answer: of which connection, the how many-th of it.
pub type Note = Arc<dyn Fn(usize, usize, &[u8]) + Send + Sync>;

/// What is to be sent, and for how long.
#[derive(Clone)]
pub struct Blast {
    /// To whom.
    pub to: SocketAddr,
    /// Connections.
    pub clients: usize,
    /// How long is counted.
    pub window: Duration,
    /// How long nothing is counted before.
    pub warm_up: Duration,
    /// The requests.
    pub compose: Compose,
    /// The answers.
    pub note: Note,
}

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub struct Blasted {
    /// Answers in the window, per second.
    pub per_s: f64,
    /// Latency of each answer in the window, in milliseconds.
    pub latencies_ms: Vec<f64>,
}

/// Runs a load on a thread of its own and waits for its end. Answers outside the window are noted as well.
pub async fn blast(load: Blast) -> Blasted {
    let run = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap_or_else(|error| panic!("no runtime for the load: {error}")).block_on(all(load))
    });
    run.await.unwrap_or_else(|error| panic!("the load broke: {error}"))
}

async fn all(load: Blast) -> Blasted {
    let from = Instant::now() + load.warm_up;
    let (until, window) = (from + load.window, load.window);
    let mut lanes = JoinSet::new();
    for client in 0..load.clients {
        lanes.spawn(lane(load.clone(), client, from, until));
    }
    let mut latencies_ms = Vec::new();
    while let Some(ended) = lanes.join_next().await {
        latencies_ms.extend(ended.unwrap_or_else(|error| panic!("a client of the load: {error}")));
    }
    Blasted { per_s: latencies_ms.len() as f64 / window.as_secs_f64(), latencies_ms }
}

async fn lane(load: Blast, client: usize, from: Instant, until: Instant) -> Vec<f64> {
    let mut line = Line::to(load.to).await;
    let (mut request, mut latencies) = (Vec::new(), Vec::new());
    for number in 0.. {
        request.clear();
        (load.compose)(client, number, &mut request);
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        let body = line.exchange(&request).await;
        let answered = Instant::now();
        (load.note)(client, number, body);
        if answered >= from && answered < until {
            latencies.push((answered - sent).as_secs_f64() * 1e3);
        }
    }
    latencies
}

/// One connection and the answer that was read last.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Line {
    /// Connects.
    pub async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).unwrap_or_else(|error| panic!("{address}: {error}"));
        Self { stream, answer: Vec::with_capacity(CHUNK) }
    }

    /// Sends a request and gives the body of its answer, which has to be a success.
    pub async fn exchange(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).await.unwrap_or_else(|error| panic!("a request was not sent: {error}"));
        self.answer.clear();
        loop {
            if let Some(head) = Head::of(&self.answer) {
                let end = head.length.map_or(self.answer.len() + 1, |length| head.bytes + length);
                let chunked = head.length.is_none() && self.answer.ends_with(b"0\r\n\r\n");
                if self.answer.len() >= end || chunked {
                    let said = || String::from_utf8_lossy(&self.answer).into_owned();
                    assert!((200..300).contains(&head.status), "an answer of the load is {}", said());
                    return &self.answer[head.bytes..];
                }
            }
            let read = self.stream.read_buf(&mut self.answer).await;
            let read = read.unwrap_or_else(|error| panic!("an answer was not read: {error}"));
            assert!(read > 0, "the connection of the load was closed");
        }
    }
}

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Of the head.
    bytes: usize,
    /// Of the body; none where it comes in chunks.
    length: Option<usize>,
}

impl Head {
    /// None until it is there as a whole.
    fn of(answer: &[u8]) -> Option<Self> {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let text = std::str::from_utf8(&answer[..end]).ok()?;
        let status = text.get(9..12)?.parse().ok()?;
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
        };
        Some(Self { status, bytes: end + 4, length: text.lines().find_map(field) })
    }
}

/// The head of a request whose body has this length.
pub fn head(request: &mut Vec<u8>, method: &str, path: &str, token: &str, length: usize) {
    use std::io::Write as _;
    // Writing to memory cannot fail.
    let _ = write!(request, "{method} {path} HTTP/1.1\r\nhost: bench\r\n");
    if !token.is_empty() {
        let _ = write!(request, "authorization: Bearer {token}\r\n");
    }
    let _ = write!(request, "content-type: application/json\r\ncontent-length: {length}\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_says_so() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(Head::of(answer), Some(Head { status: 202, bytes: 44, length: Some(2) }));
        assert_eq!(Head::of(&answer[..43]), None);
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(Head::of(chunked), Some(Head { status: 200, bytes: 47, length: None }));
    }

    #[test]
    fn a_request_has_what_a_server_needs() {
        let mut request = Vec::new();
        head(&mut request, "PUT", "/x", "t", 2);
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("PUT /x HTTP/1.1\r\nhost: ") && text.ends_with("content-length: 2\r\n\r\n"), "{text}");
        assert!(text.contains("\r\nauthorization: Bearer t\r\n"), "{text}");
    }
}
