//! A server for tests on a real socket: answers each connection's request with the next reply, the last one for ever.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What the fake does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status line, extra headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Reads and never answers.
    Silence,
    /// Reads and cuts the connection with a reset.
    Reset,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::Answer(status, vec![], body.to_string())
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::Answer(status, vec![], body.to_owned())
    }

    pub(crate) fn with(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Answer(status, mut headers, body) => {
                headers.push((name, value.to_owned()));
                Self::Answer(status, headers, body)
            }
            other => other,
        }
    }
}

/// A running fake; it ends when dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let log = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let mut replies = replies.into_iter();
            let mut last = replies.next().unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let reply = last.clone();
                last = replies.next().unwrap_or(last);
                let log = Arc::clone(&log);
                connections.spawn(async move {
                    let _ = serve(stream, reply, &log).await;
                });
            }
        });
        Self { url, seen, _tasks: tasks }
    }

    /// The requests so far, head and body as text, header names in lower case as hyper writes them.
    pub(crate) async fn seen(&self) -> Vec<String> {
        self.seen.lock().await.clone()
    }

    /// A URL whose port the kernel just gave and nobody listens on.
    pub(crate) async fn refusing_url() -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        // Bound and not listening it refuses, and until the test ends nobody else gets its port.
        Box::leak(Box::new(socket));
        url
    }
}

async fn serve(mut stream: TcpStream, reply: Reply, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let request = read_request(&mut stream).await?;
    log.lock().await.push(request);
    match reply {
        Reply::Silence => {
            // Until the client gives up.
            let _ = stream.read(&mut [0; 1]).await;
        }
        Reply::Reset => stream.set_zero_linger()?,
        Reply::Answer(status, headers, body) => {
            let mut text = format!("HTTP/1.1 {status} Fake\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            stream.write_all(format!("{text}\r\n{body}").as_bytes()).await?;
        }
    }
    Ok(())
}

async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
            if body.len() >= length {
                return Ok(text);
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
