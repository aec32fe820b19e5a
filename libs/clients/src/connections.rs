//! Connections to agents over plain HTTP/1.1, bounded over all agents together.
//!
//! Called by: [`crate::agent`]. What it calls: hyper, one exchange at a time.
//!
//! ```text
//!   exchange ──▶ a kept socket that is still open, or a new one (the longest idle one makes room) ──▶ request, answer
//!                       ▲                                                                                   │
//!                       └────────── the bare socket is kept, if both sides are done with it ◀───────────────┘
//! ```
//!
//! Why not reqwest: its pool is bounded per host only, and each agent is a host: 20,000 agents would be 20,000 descriptors,
//! whatever the limit of the process is. Its idle connections have a task and buffers of some 20 kB each. Here an idle
//! connection is a socket, and the one that was idle longest is closed when there is no room. Invariants: not more than
//! `room` connections are open, but for those that are all in use; one idle connection per host; a connection is kept only
//! after a whole exchange; nothing is sent twice: a kept socket that the other side has closed is found before it is used, and
//! where both sides cross, the caller hears that it broke.

use std::collections::{BTreeMap, HashMap};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::transport::Failure;

/// A socket that nobody used for so long is closed when the next one is kept.
const IDLE: Duration = Duration::from_secs(90);
/// EMFILE and ENFILE: the process, or the machine, has no descriptor left.
const NO_DESCRIPTOR: [i32; 2] = [24, 23];

/// What the connections are at this moment, and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    /// How many may be open.
    pub room: usize,
    /// Open ones, idle ones among them.
    pub open: usize,
    /// Open ones that nobody uses.
    pub idle: usize,
    /// Connections that were made.
    pub made_total: u64,
    /// Idle ones that were closed to make room.
    pub closed_for_room_total: u64,
}

/// The connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    room: usize,
    connect_timeout: Duration,
    idle: Mutex<Idle>,
    open: AtomicUsize,
    made: AtomicU64,
    closed_for_room: AtomicU64,
}

#[derive(Debug, Default)]
struct Idle {
    by_host: HashMap<Arc<str>, Kept>,
    /// The same by age.
    by_turn: BTreeMap<u64, Arc<str>>,
    turn: u64,
}

#[derive(Debug)]
struct Kept {
    socket: Socket,
    turn: u64,
    since: Instant,
}

impl Kept {
    /// Whether it may be used: the other side has not closed it, and nothing between has forgotten it.
    fn is_good(&self) -> bool {
        is_silent(&self.socket.stream) && self.since.elapsed() <= IDLE
    }
}

/// A socket that is counted for as long as it is open.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    _count: Count,
}

#[derive(Debug)]
struct Count(Arc<Inner>);

impl Count {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inner))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Idle {
    fn take(&mut self, host: &str) -> Option<Kept> {
        let kept = self.by_host.remove(host)?;
        self.by_turn.remove(&kept.turn);
        Some(kept)
    }

    fn put(&mut self, host: Arc<str>, socket: Socket) {
        self.turn += 1;
        self.by_turn.insert(self.turn, Arc::clone(&host));
        let kept = Kept { socket, turn: self.turn, since: Instant::now() };
        if let Some(other) = self.by_host.insert(host, kept) {
            self.by_turn.remove(&other.turn);
        }
    }

    /// The one that was idle longest.
    fn oldest(&mut self) -> Option<Kept> {
        let (_, host) = self.by_turn.pop_first()?;
        self.by_host.remove(&host)
    }

    fn oldest_is_old(&self) -> bool {
        let oldest = self.by_turn.first_key_value().and_then(|(_, host)| self.by_host.get(host));
        oldest.is_some_and(|kept| kept.since.elapsed() > IDLE)
    }
}

impl Connections {
    /// At most `room` at once.
    #[must_use]
    pub fn new(room: usize, connect_timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            room: room.max(1),
            connect_timeout,
            idle: Mutex::default(),
            open: AtomicUsize::new(0),
            made: AtomicU64::new(0),
            closed_for_room: AtomicU64::new(0),
        }))
    }

    /// What they are now.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            room: self.0.room,
            idle: self.idle().by_host.len(),
            open: self.0.open.load(Ordering::Relaxed),
            made_total: self.0.made.load(Ordering::Relaxed),
            closed_for_room_total: self.0.closed_for_room.load(Ordering::Relaxed),
        }
    }

    /// A panic between two plain assignments may leave a turn without its socket, which is passed over.
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to the host that its URI names, and reads the answer: its status and a body of at most `limit`
    /// bytes. The URI has the scheme `http`. The caller limits the time of it all.
    ///
    /// # Errors
    /// [`Failure`] says whether it was certainly not executed.
    pub async fn exchange(&self, mut request: Request<Full<Bytes>>, limit: usize) -> Result<(u16, Vec<u8>), Failure> {
        let Some(host) = host_of(request.uri()) else { return Err(Failure::NoConnection) };
        let name = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        let Some(Ok(name)) = name else { return Err(Failure::NoConnection) };
        request.headers_mut().insert(HOST, name);
        // On the wire stands only the path; the host is in its header.
        let path = request.uri().path_and_query().map(|path| Uri::from(path.clone())).unwrap_or_default();
        *request.uri_mut() = path;
        let socket = match self.kept(&host) {
            Some(socket) => socket,
            None => self.connect(&host).await?,
        };
        let Socket { stream, _count: count } = socket;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Broken)?;
        let (answer, stream) = Exchange { sender, connection, over: false }.run(request, limit).await?;
        if let Some(stream) = stream {
            self.keep(host, Socket { stream, _count: count });
        }
        Ok(answer)
    }

    /// Whether a socket to the host of this URL is kept, and the other side has not closed it.
    #[must_use]
    pub fn holds(&self, url: &str) -> bool {
        let Some(host) = url.parse().ok().and_then(|uri| host_of(&uri)) else { return false };
        self.idle().by_host.get(&host).is_some_and(Kept::is_good)
    }

    /// A kept socket that the other side has not closed.
    fn kept(&self, host: &str) -> Option<Socket> {
        self.idle().take(host).filter(Kept::is_good).map(|kept| kept.socket)
    }

    fn keep(&self, host: Arc<str>, socket: Socket) {
        if !rests(&socket.stream) {
            return;
        }
        let mut idle = self.idle();
        idle.put(host, socket);
        // As many go as came, and one more, so that a fleet that shrank is forgotten.
        let old: Vec<Kept> = (0..2).map_while(|_| idle.oldest_is_old().then(|| idle.oldest()).flatten()).collect();
        drop(idle);
        drop(old);
        self.make_room(0);
    }

    /// Closes idle ones until `more` find room, or none is left.
    fn make_room(&self, more: usize) {
        while self.0.open.load(Ordering::Relaxed) + more > self.0.room && self.close_oldest() {}
    }

    fn close_oldest(&self) -> bool {
        let oldest = self.idle().oldest();
        let closed = oldest.is_some();
        drop(oldest);
        self.0.closed_for_room.fetch_add(u64::from(closed), Ordering::Relaxed);
        closed
    }

    async fn connect(&self, host: &str) -> Result<Socket, Failure> {
        self.make_room(1);
        let count = Count::new(&self.0);
        let mut made = self.dial(host).await;
        // Others in this process want descriptors as well.
        while made.as_ref().is_err_and(is_out_of_descriptors) && self.close_oldest() {
            made = self.dial(host).await;
        }
        let stream = made.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::TimedOut => Failure::Timeout,
            _ => Failure::NoConnection,
        })?;
        self.0.made.fetch_add(1, Ordering::Relaxed);
        Ok(Socket { stream, _count: count })
    }

    async fn dial(&self, host: &str) -> io::Result<TcpStream> {
        let stream = tokio::time::timeout(self.0.connect_timeout, TcpStream::connect(host)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Whether nothing has come that nobody asked for. The task that waited for the socket last is let go by it: its memory
/// would stay for as long as the socket.
fn rests(stream: &TcpStream) -> bool {
    for _ in 0..2 {
        // Asked in vain, it forgets that there was something to read, which was read.
        if !is_silent(stream) {
            return false;
        }
        if stream.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_pending() {
            return true;
        }
    }
    false
}

/// Whether there is nothing to read: neither an end, nor an answer to nothing.
fn is_silent(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| NO_DESCRIPTOR.contains(&code))
}

/// `host:port` of a plain URL.
fn host_of(uri: &Uri) -> Option<Arc<str>> {
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    Some(match authority.port() {
        Some(_) => Arc::from(authority.as_str()),
        None => Arc::from(format!("{}:80", authority.as_str())),
    })
}

/// One request and its answer on a connection that nobody else uses.
struct Exchange {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<TcpStream>, Full<Bytes>>,
    over: bool,
}

impl Exchange {
    /// The answer, and the socket if it can be used again.
    async fn run(
        mut self,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<((u16, Vec<u8>), Option<TcpStream>), Failure> {
        let sent = self.sender.send_request(request);
        let response = self.drive(sent).await.map_err(|_| Failure::Broken)?;
        let (head, mut body) = response.into_parts();
        let closes = head.version != Version::HTTP_11
            || head.headers.get_all(CONNECTION).iter().any(|value| {
                value.to_str().is_ok_and(|text| text.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")))
            });
        let mut text = Vec::new();
        while let Some(frame) = self.drive(body.frame()).await {
            let Ok(data) = frame.map_err(|_| Failure::Broken)?.into_data() else { continue };
            if text.len() + data.len() > limit {
                return Err(Failure::Garbled);
            }
            text.extend_from_slice(&data);
        }
        let stream = if closes { None } else { self.into_socket() };
        Ok(((head.status.as_u16(), text), stream))
    }

    /// Moves the connection on until `work` is done.
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if !self.over {
                self.over = Pin::new(&mut self.connection).poll(cx).is_ready();
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// The socket, if the request went out as a whole, the answer was read as a whole, and nothing else came.
    fn into_socket(mut self) -> Option<TcpStream> {
        let mut nobody = Context::from_waker(Waker::noop());
        if self.over || Pin::new(&mut self.connection).poll(&mut nobody).is_ready() || !self.sender.is_ready() {
            return None;
        }
        let parts = self.connection.into_parts();
        parts.read_buf.is_empty().then(|| parts.io.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// A host that keeps connections open and answers each request with how many its connection has had, until it is told
    /// to hang up.
    struct Host {
        name: String,
        tasks: JoinSet<()>,
    }

    async fn host() -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut served = 0;
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        served += 1;
                        let last = buffer.starts_with(b"GET /last");
                        let head = if last { "connection: close\r\n" } else { "" };
                        let text = format!("HTTP/1.1 200 OK\r\n{head}content-length: 1\r\n\r\n{served}");
                        if stream.write_all(text.as_bytes()).await.is_err() || last {
                            return;
                        }
                    }
                });
            }
        });
        Host { name, tasks }
    }

    async fn get(connections: &Connections, host: &Host, path: &str) -> Result<String, Failure> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = format!("http://{}{path}", host.name).parse().unwrap();
        let (status, body) = connections.exchange(request, 100).await?;
        assert_eq!(status, 200);
        Ok(String::from_utf8(body).unwrap())
    }

    #[tokio::test]
    async fn a_connection_is_used_again_until_somebody_closes_it() {
        let (connections, host) = (Connections::new(9, Duration::from_secs(1)), host().await);
        for served in 1..5 {
            assert_eq!(get(&connections, &host, "/").await.unwrap(), served.to_string());
        }
        let stats = connections.stats();
        assert_eq!((stats.open, stats.idle, stats.made_total), (1, 1, 1));
        assert_eq!(get(&connections, &host, "/last").await.unwrap(), "5");
        assert_eq!((connections.stats().open, connections.stats().idle), (0, 0));
        assert_eq!(get(&connections, &host, "/").await.unwrap(), "1", "on a new one");
    }

    #[tokio::test]
    async fn one_that_the_other_side_closed_is_found_before_it_is_used() {
        let connections = Connections::new(9, Duration::from_secs(1));
        let mut gone = host().await;
        assert_eq!(get(&connections, &gone, "/").await.unwrap(), "1");
        let url = format!("http://{}/whatever", gone.name);
        assert!(connections.holds(&url) && !connections.holds("http://127.0.0.1:1/") && !connections.holds("no url"));
        gone.tasks.shutdown().await;
        let patience = Instant::now() + Duration::from_secs(10);
        while connections.holds(&url) {
            assert!(Instant::now() < patience, "it is closed and held for good");
            tokio::task::yield_now().await;
        }
        assert_eq!(get(&connections, &gone, "/").await, Err(Failure::Refused), "not: it broke");
        assert_eq!((connections.stats().open, connections.stats().idle), (0, 0));
    }

    #[tokio::test]
    async fn the_longest_idle_makes_room() {
        let connections = Connections::new(3, Duration::from_secs(1));
        let mut hosts = Vec::new();
        for _ in 0..5 {
            hosts.push(host().await);
        }
        for host in &hosts {
            get(&connections, host, "/").await.unwrap();
            assert!(connections.stats().open <= 3, "{:?}", connections.stats());
        }
        let stats = connections.stats();
        assert_eq!((stats.room, stats.open, stats.idle, stats.closed_for_room_total), (3, 3, 3, 2));
        assert_eq!(get(&connections, &hosts[2], "/").await.unwrap(), "2", "it is one of the last three");
        assert_eq!(get(&connections, &hosts[0], "/").await.unwrap(), "1", "its first was closed");
        assert_eq!(get(&connections, &hosts[3], "/").await.unwrap(), "1", "the third was used later than the fourth");
    }

    /// Those in use are never closed, even if they are more than there is room for.
    #[tokio::test]
    async fn what_is_in_use_stays() {
        let connections = Connections::new(1, Duration::from_secs(1));
        let hosts = [host().await, host().await, host().await];
        let all = tokio::join!(
            get(&connections, &hosts[0], "/"),
            get(&connections, &hosts[1], "/"),
            get(&connections, &hosts[2], "/")
        );
        assert_eq!([all.0.unwrap(), all.1.unwrap(), all.2.unwrap()], ["1", "1", "1"]);
        assert_eq!(connections.stats().open, 1);
    }

    #[tokio::test]
    async fn an_exchange_that_is_given_up_leaves_nothing_open() {
        let connections = Connections::new(9, Duration::from_secs(1));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Host { name: silent.local_addr().unwrap().to_string(), tasks: JoinSet::new() };
        let asked = tokio::time::timeout(Duration::from_millis(50), get(&connections, &host, "/")).await;
        assert!(asked.is_err());
        assert_eq!((connections.stats().open, connections.stats().idle), (0, 0));
    }
}
