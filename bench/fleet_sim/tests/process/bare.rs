//! A client that is a socket and no more, and keeps few of them open.

use std::collections::VecDeque;
use std::io;

use pgfleet_api::{ClusterId, Fence, Generation, Term};
use pgfleet_domain::spec::spec_hash;
use pgfleet_harness::specs::marked;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Connections that are kept alive, at most so many; the oldest makes way.
pub struct Kept {
    most: usize,
    open: VecDeque<(String, TcpStream)>,
}

impl Kept {
    pub fn new(most: usize) -> Self {
        Self { most, open: VecDeque::new() }
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Asks over a connection that is open, or over a new one.
    pub async fn ask(&mut self, url: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let address = url.trim_start_matches("http://");
        let known = self.open.iter().position(|(to, _)| to == address);
        let mut stream = match known.and_then(|at| self.open.remove(at)) {
            Some((_, stream)) => stream,
            None => TcpStream::connect(address).await?,
        };
        let answer = exchange(&mut stream, address, method, path, body).await?;
        self.open.push_back((address.to_owned(), stream));
        if self.open.len() > self.most {
            self.open.pop_front();
        }
        Ok(answer)
    }
}

async fn exchange(stream: &mut TcpStream, host: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nprefer: respond-async\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut got = Vec::new();
    loop {
        if stream.read_buf(&mut got).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&got);
        let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
        let field = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if rest.len() >= field.trim().parse().unwrap() {
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            return Ok(Answer { status, body: rest.to_owned() });
        }
    }
}

/// Body of a push of generation `generation` to agent `n`.
pub fn push(n: u32, generation: i64) -> String {
    let spec = marked(&generation.to_string());
    let fence = Fence {
        cluster_id: ClusterId(Uuid::from_u128(1)),
        compute_id: format!("sim-{n}").parse().unwrap(),
        term: Term(1),
        generation: Generation(generation),
        spec_hash: spec_hash(&spec),
    };
    json!({"spec": spec, "fence": fence}).to_string()
}
