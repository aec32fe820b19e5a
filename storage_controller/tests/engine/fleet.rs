//! A fleet of agents that one listener plays, each at a loopback address of its own: it counts connections, and any of
//! its agents can vanish, return, fail and hang.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use pgfleet_api::ComputeId;
use pgfleet_api::agent::{AgentStatus, ConfigureRequest};
use pgfleet_clients::controller::ControllerClient;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Agent, Manner, registration};

/// Registrations under way at once.
const AT_ONCE: usize = 32;

/// The agents and what was seen of the controller.
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Arc<Agent>>,
    gone: HashMap<IpAddr, Arc<Gone>>,
    urls: Vec<String>,
    connects: Mutex<Connects>,
    hanging: AtomicUsize,
    pub(crate) most_hanging: AtomicUsize,
}

#[derive(Default)]
struct Connects {
    all: Vec<Instant>,
    /// Those to agents that had vanished and not been heard since.
    blind: Vec<Instant>,
    unheard: HashSet<IpAddr>,
}

/// Where an agent is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum At {
    /// At an address of its own.
    Alone,
    /// At one address with all others of its kind.
    Together,
}

fn address(n: usize, at: At) -> IpAddr {
    let byte = |n: usize| u8::try_from(n % 250).unwrap();
    match at {
        At::Alone => Ipv4Addr::new(127, 77, byte(n / 250), 1 + byte(n)).into(),
        At::Together => Ipv4Addr::new(127, 99, 99, 99).into(),
    }
}

impl Fleet {
    /// Plays agents named `c0`, `c1`, …
    pub(crate) async fn start(manners: impl IntoIterator<Item = (Manner, At)>) -> Arc<Self> {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mut agents, mut gone, mut urls) = (Vec::new(), HashMap::new(), Vec::new());
        for (n, (manner, at)) in manners.into_iter().enumerate() {
            let ip = address(n, at);
            agents.push(Arc::new(Agent::new(&format!("c{n}"), manner)));
            gone.insert(ip, Arc::default());
            urls.push(format!("http://{ip}:{port}/a/{n}"));
        }
        let fleet = Arc::new(Self {
            agents,
            gone,
            urls,
            connects: Mutex::default(),
            hanging: AtomicUsize::new(0),
            most_hanging: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/a/{n}/status", get(status))
            .route("/a/{n}/configure", post(configure))
            .with_state(fleet.clone());
        let door = Door { listener, fleet: fleet.clone() };
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(door, router).await });
        server.detach_all();
        fleet
    }

    /// Registers all of them, each with its first spec.
    pub(crate) async fn register(self: &Arc<Self>, client: &ControllerClient) {
        let mut tasks = JoinSet::new();
        for (agent, url) in self.agents.iter().zip(&self.urls) {
            while tasks.len() >= AT_ONCE {
                tasks.join_next().await.unwrap().unwrap();
            }
            let (client, agent, url) = (client.clone(), agent.clone(), url.clone());
            tasks.spawn(async move {
                client.register(&agent.id, &registration(url)).await.unwrap();
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }

    /// Agents from here on vanish, or return: whoever connects is cut off, and whoever is connected as well.
    pub(crate) fn vanish(&self, agents: std::ops::Range<usize>, is_gone: bool) {
        for ip in agents.map(|n| address(n, At::Alone)) {
            self.connects.lock().unwrap().unheard.insert(ip);
            self.gone[&ip].set(is_gone);
        }
    }

    /// How many connections were made since then.
    pub(crate) fn connects_since(&self, then: Instant) -> usize {
        self.connects.lock().unwrap().all.iter().filter(|at| **at >= then).count()
    }

    /// The most connections in any time of this length since then to agents that had vanished and not been heard since.
    pub(crate) fn most_blind_connects_within(&self, time: Duration, then: Instant) -> usize {
        let connects = self.connects.lock().unwrap();
        let since: Vec<_> = connects.blind.iter().filter(|at| **at >= then).collect();
        let within = |first: usize| since[first..].partition_point(|at| **at < *since[first] + time);
        (0..since.len()).map(within).max().unwrap_or(0)
    }

    /// How many pushes the agent has got.
    pub(crate) fn pushes(&self, n: usize) -> usize {
        self.agents[n].pushes.load(Ordering::SeqCst)
    }

    pub(crate) fn id(&self, n: usize) -> &ComputeId {
        &self.agents[n].id
    }
}

async fn status(State(fleet): State<Arc<Fleet>>, Path(n): Path<usize>) -> Json<AgentStatus> {
    Json(fleet.agents[n].status())
}

async fn configure(
    State(fleet): State<Arc<Fleet>>,
    Path(n): Path<usize>,
    body: Json<ConfigureRequest>,
) -> Result<(StatusCode, Json<AgentStatus>), StatusCode> {
    let agent = fleet.agents[n].clone();
    let _counted = (agent.manner == Manner::Hanging).then(|| Counted::new(fleet));
    super::configure(State(agent), body).await
}

/// One that hangs, until the controller gives up.
struct Counted(Arc<Fleet>);

impl Counted {
    fn new(fleet: Arc<Fleet>) -> Self {
        let now = fleet.hanging.fetch_add(1, Ordering::SeqCst) + 1;
        fleet.most_hanging.fetch_max(now, Ordering::SeqCst);
        Self(fleet)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Door {
    listener: TcpListener,
    fleet: Arc<Fleet>,
}

impl axum::serve::Listener for Door {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else { continue };
            let (ip, now) = (stream.local_addr().unwrap().ip(), Instant::now());
            let gone = self.fleet.gone[&ip].clone();
            let is_gone = gone.is_so();
            let mut connects = self.fleet.connects.lock().unwrap();
            connects.all.push(now);
            if is_gone || connects.unheard.remove(&ip) {
                connects.blind.push(now);
            }
            drop(connects);
            if !is_gone {
                return (Line { stream, gone }, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Whether an agent is gone, and who wants to know.
#[derive(Default)]
struct Gone {
    so: AtomicBool,
    lines: Mutex<Vec<Waker>>,
}

impl Gone {
    fn is_so(&self) -> bool {
        self.so.load(Ordering::SeqCst)
    }

    fn set(&self, is_gone: bool) {
        self.so.store(is_gone, Ordering::SeqCst);
        self.lines.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    fn wakes(&self, waker: &Waker) {
        let mut lines = self.lines.lock().unwrap();
        if !lines.iter().any(|known| known.will_wake(waker)) {
            lines.push(waker.clone());
        }
    }
}

/// A connection that breaks when its agent goes, as that of a process does.
struct Line {
    stream: TcpStream,
    gone: Arc<Gone>,
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.gone.wakes(context.waker());
        if self.gone.is_so() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
