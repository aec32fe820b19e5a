//! Listening: bind with one clear line, serve with a header deadline, drain with a deadline.
//!
//! Called by `app` of each server. hyper closes a connection whose request head takes longer than the limit (also an idle
//! keep-alive one) only when it is given a timer, which is why `axum::serve` is not used.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next as Rest, from_fn_with_state};
use axum::response::Response;
use http::{HeaderValue, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::exit::{ExitCode, FAILED, USAGE};
use crate::supervisor::{Kind, TaskGroup};

/// How long and how much a listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A request head must be complete after this time; an idle connection is closed after it as well.
    pub header_read_timeout: Duration,
    /// Requests in flight get this long when the group is cancelled, then they are cut.
    pub drain: Duration,
    /// More connections than this wait to be accepted.
    pub max_connections: usize,
    /// A client that takes nothing of what is sent to it for so long is cut: what waits for it is in the kernel's buffers and
    /// in one piece of a stream, and both are given back then.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            max_connections: 4096,
            stall: Duration::from_secs(30),
        }
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error("cannot listen on {address}: the port is in use; choose another one or end the process that has it")]
    Busy {
        /// What was asked for.
        address: String,
    },
    /// The address is no address of this machine, or the system refuses.
    #[error("cannot listen on {address}")]
    Refused {
        /// What was asked for.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl ExitCode for BindError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Busy { .. } => FAILED,
            Self::Refused { .. } => USAGE,
        }
    }
}

/// A bound address that does not accept yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Where it listens; the port is the real one.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Binds `host:port`; port 0 takes a free one.
///
/// # Errors
/// One line that names the address.
pub async fn bind(address: &str) -> Result<Listener, BindError> {
    let refused = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::Busy { address: address.to_owned() },
        _ => BindError::Refused { address: address.to_owned(), source },
    };
    let socket = TcpListener::bind(address).await.map_err(refused)?;
    let address = socket.local_addr().map_err(refused)?;
    Ok(Listener { socket, address })
}

/// How a listener ends in order. Before its group's token, which closes the port, and after it.
#[derive(Debug, Clone)]
pub struct Farewell {
    /// From here on every answer closes its connection, so that clients go elsewhere by themselves.
    pub last_answers: CancellationToken,
    /// From here on connections without a request are closed, too. A client may be writing on one of them, so it comes
    /// a while after the port was closed: whoever uses his has had his last answer by then.
    pub idle: CancellationToken,
}

/// Serves `router` as tasks of `group` until its token is cancelled; then idle connections close at once.
pub fn serve(listener: Listener, router: Router, group: &TaskGroup, limits: Limits) {
    let farewell = Farewell { last_answers: group.token(), idle: group.token() };
    serve_until(listener, router, group, limits, farewell);
}

/// As [`serve`], ending in more steps: `last_answers`, the token of `group`, `idle`, then `limits.drain`. What has connected
/// before the port closed is served.
pub fn serve_until(listener: Listener, router: Router, group: &TaskGroup, limits: Limits, farewell: Farewell) {
    let tasks = group.clone();
    let router = router.layer(from_fn_with_state(farewell.last_answers, close_after));
    group.spawn("accept", Kind::Vital, async move {
        let token = tasks.token();
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let start = |stream: TcpStream, place: Option<OwnedSemaphorePermit>| {
            let connection = connection(stream, router.clone(), limits, farewell.idle.clone());
            tasks.spawn("connection", Kind::Worker, async move {
                connection.await;
                drop(place);
                Ok::<_, std::convert::Infallible>(())
            });
        };
        while let Some((stream, place)) = next(&listener.socket, &places, &token).await {
            start(stream, Some(place));
        }
        // The kernel has completed these handshakes: their clients believe that they are connected.
        for stream in queued(listener.socket)? {
            start(stream, None);
        }
        Ok::<_, std::io::Error>(())
    });
}

/// Closes the port; gives what had connected and was not accepted yet.
fn queued(socket: TcpListener) -> std::io::Result<Vec<TcpStream>> {
    let socket = socket.into_std()?;
    let mut streams = Vec::new();
    // The socket does not block, so the end of the queue is an error.
    while let Ok((stream, _peer)) = socket.accept() {
        stream.set_nonblocking(true)?;
        streams.push(TcpStream::from_std(stream)?);
    }
    Ok(streams)
}

/// After the token was cancelled, answers say that their connection closes.
async fn close_after(State(token): State<CancellationToken>, request: Request, rest: Rest) -> Response {
    let mut response = rest.run(request).await;
    if token.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The next connection and its place; none when the group is to end.
async fn next(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
    token: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    loop {
        let accepted = async {
            let place = Arc::clone(places).acquire_owned().await.ok()?;
            Some((socket.accept().await, place))
        };
        let (accepted, place) = tokio::select! {
            () = token.cancelled() => return None,
            accepted = accepted => accepted?,
        };
        match accepted {
            Ok((stream, _peer)) => return Some((stream, place)),
            Err(error) => {
                // Out of descriptors: the connections that end will free some.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, idle: CancellationToken) {
    // A latency of 40 ms on small answers otherwise; a failure changes nothing else.
    let _ = stream.set_nodelay(true);
    // Nobody polls a stream that cannot be written, so the kernel has to measure this time.
    let stall_ms = u32::try_from(limits.stall.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, stall_ms) {
        tracing::debug!("a client that stalls will not be cut: {error}");
    }
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_read_timeout);
    let service = TowerToHyperService::new(router);
    // A websocket takes its connection over; whoever serves it ends it.
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        ended = serving.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!("a connection ended: {error}");
            }
            return;
        }
        () = idle.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    if tokio::time::timeout(limits.drain, serving).await.is_err() {
        tracing::warn!(drain_ms = limits.drain.as_millis(), "a request outlived the drain and was cut");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn limits(header_ms: u64, drain_ms: u64) -> Limits {
        Limits {
            header_read_timeout: Duration::from_millis(header_ms),
            drain: Duration::from_millis(drain_ms),
            max_connections: 8,
            stall: Duration::from_secs(30),
        }
    }

    async fn started(router: Router, limits: Limits) -> (TaskGroup, SocketAddr) {
        let group = TaskGroup::new("http");
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr();
        serve(listener, router, &group, limits);
        (group, address)
    }

    #[tokio::test]
    async fn a_busy_port_is_one_clear_line() {
        let first = bind("127.0.0.1:0").await.unwrap();
        let address = first.local_addr().to_string();
        let error = bind(&address).await.unwrap_err();
        assert!(error.to_string().contains(&address));
        assert_eq!(error.exit_code(), FAILED);
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_cut() {
        let (group, address) = started(Router::new(), limits(200, 100)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let begun = Instant::now();
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(150));
        group.stop().await;
    }

    #[tokio::test]
    async fn a_request_in_flight_is_answered_and_the_connection_closed() {
        let (enter, mut entered) = tokio::sync::mpsc::channel::<()>(1);
        let slow = move || {
            let enter = enter.clone();
            async move {
                enter.send(()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
                "done"
            }
        };
        let (group, address) = started(Router::new().route("/", get(slow)), limits(5000, 5000)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        entered.recv().await.unwrap();
        assert!(group.stop_within(Duration::from_secs(4)).await.is_ok());
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"));
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn an_end_in_steps_leaves_idle_connections_to_their_clients() {
        let (group, end_idle) = (TaskGroup::new("http"), CancellationToken::new());
        let last_answers = CancellationToken::new();
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr();
        let router = Router::new().route("/", get(|| async { "done" }));
        let farewell = Farewell { last_answers: last_answers.clone(), idle: end_idle.clone() };
        let two = Limits { max_connections: 2, ..limits(5000, 100) };
        serve_until(listener, router, &group, two, farewell);
        let get = async |stream: &mut TcpStream| {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"done") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
            }
            String::from_utf8(answer).unwrap().to_ascii_lowercase()
        };
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut used = TcpStream::connect(address).await.unwrap();
        for kept in [&mut idle, &mut used] {
            assert!(!get(kept).await.contains("connection: close"));
        }
        last_answers.cancel();
        // Connected and not accepted when the port closes, because both places are taken.
        let mut queued = TcpStream::connect(address).await.unwrap();
        group.token().cancel();
        assert!(get(&mut queued).await.contains("connection: close"));
        tokio::time::timeout(Duration::from_secs(5), async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert!(
            get(&mut used).await.contains("connection: close"),
            "a kept connection is answered after the port closed"
        );
        assert_eq!(used.read(&mut [0; 1]).await.unwrap(), 0);
        end_idle.cancel();
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "and an idle one is closed in the end");
        assert!(group.stop_within(Duration::from_secs(4)).await.is_ok());
    }

    /// A stream that ends with its client, however it ends.
    struct Endless(tokio::sync::mpsc::Sender<()>);

    impl futures_util::Stream for Endless {
        type Item = Result<axum::body::Bytes, std::convert::Infallible>;

        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(Some(Ok(axum::body::Bytes::from_static(&[b'x'; 64 << 10]))))
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut_and_a_slow_one_is_not() {
        let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        let endless = move || {
            let alive = alive.clone();
            async move { axum::body::Body::from_stream(Endless(alive)) }
        };
        let limits = Limits { stall: Duration::from_millis(700), ..limits(5000, 100) };
        let (group, address) = started(Router::new().route("/", get(endless)), limits).await;
        let asked = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            stream
        };
        let (mut stalled, mut slow) = (asked().await, asked().await);
        let mut buffer = vec![0; 1 << 20];
        let begun = Instant::now();
        // More than three times the limit, and always something of a full window.
        while begun.elapsed() < Duration::from_millis(2500) {
            assert_ne!(slow.read(&mut buffer).await.unwrap(), 0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What the kernel still holds is read, and then there is no end in order.
        let end = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match stalled.read(&mut buffer).await {
                    Ok(0) => return "the end",
                    Ok(_) => {}
                    Err(_) => return "cut",
                }
            }
        });
        assert_eq!(end.await.unwrap(), "cut");
        assert_ne!(slow.read(&mut buffer).await.unwrap(), 0, "it was served all the time");
        drop(slow);
        group.stop_within(Duration::from_secs(4)).await.unwrap();
        assert!(ended.recv().await.is_none(), "nothing of either is left");
    }

    #[tokio::test]
    async fn a_request_that_outlives_the_drain_is_cut() {
        let never = || async { std::future::pending::<&'static str>().await };
        let (group, address) = started(Router::new().route("/", get(never)), limits(5000, 100)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(group.stop_within(Duration::from_secs(4)).await.is_ok());
    }
}
