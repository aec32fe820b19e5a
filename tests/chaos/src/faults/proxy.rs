//! A TCP proxy on one link, which can cut, delay, silence and reset it.
//!
//! Who calls it: the cast of a run, which gives every member and every agent a proxy for what comes to it, and every member
//! one for what it sends to the database. A mode takes effect on open connections at once. Invariants: nothing outlives
//! the [`Proxy`]; a stream is never continued with bytes missing: what a silent link holds back is delivered when it
//! passes again, as a network does, or the connection ends.
//!
//! Where its target's port is closed the proxy closes its own, so that a client meets what it would meet without the
//! proxy: a refused connection. It listens again once the target does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgfleet_harness::fleet::free_port;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::pipe::{End, Pipe};

/// How often a proxy with a closed port looks whether its target is there again.
const LOOK: Duration = Duration::from_millis(5);

/// Whom a byte goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
}

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All passes.
    Pass,
    /// Open connections are reset, and the port is closed: new ones are refused.
    Cut,
    /// Open connections are reset; new ones are accepted and reset.
    Reset,
    /// Every piece waits this long, in both directions.
    Delay(Duration),
    /// Connections stay open, new ones are accepted, and nothing passes.
    HalfOpen,
    /// Nothing passes in this direction.
    OneWay(Direction),
    /// Each connection is reset after this many further bytes of answers.
    CutMidBody {
        /// Bytes that still pass.
        after_bytes: u64,
    },
    /// This many bytes pass per second and direction.
    Slow(u32),
}

/// What went through, and what did not.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) struck: AtomicU64,
}

impl Counters {
    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bytes that were passed on, both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Connections that met another mode than [`Mode::Pass`], once for each mode they met.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }
}

struct Shared {
    target: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    /// Counts the starts of the target that were announced.
    starts: watch::Sender<u64>,
    counters: Arc<Counters>,
}

impl Shared {
    fn target(&self) -> SocketAddr {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy that runs; it ends, with all its connections, when the value goes.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1. The target need not listen yet.
    pub async fn start(target: SocketAddr) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listener = listen(addr).await;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            mode: watch::Sender::new(Mode::Pass),
            starts: watch::Sender::default(),
            counters: Arc::default(),
        });
        let mut task = JoinSet::new();
        task.spawn(serve(shared.clone(), addr, listener));
        Self { addr, shared, _task: task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it does.
    pub fn mode(&self) -> Mode {
        *self.shared.mode.borrow()
    }

    /// Has it do something else from now on.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Sends new connections elsewhere.
    pub fn retarget(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// The target is about to be started: the port is opened again, and stays open until the target was reached once. A
    /// member dials its own address at its start and must meet itself.
    pub fn target_starts(&self) {
        self.shared.starts.send_modify(|starts| *starts += 1);
    }

    /// What went through it.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

async fn listen(addr: SocketAddr) -> TcpListener {
    // The port is ours: connections of before may still be on their way out, which the socket's options allow.
    let mut last = None;
    for _ in 0..200 {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("the proxy cannot listen on {addr}: {last:?}");
}

async fn serve(shared: Arc<Shared>, addr: SocketAddr, listener: TcpListener) {
    let (mut modes, mut starts) = (shared.mode.subscribe(), shared.starts.subscribe());
    let mut connections: JoinSet<End> = JoinSet::new();
    let mut listener = Some(listener);
    // Before it was reached once, a closed port is one that is not open yet.
    let mut reached = false;
    loop {
        let mode = *modes.borrow_and_update();
        if mode == Mode::Cut {
            listener = None;
        } else if listener.is_none() && (!reached || TcpStream::connect(shared.target()).await.is_ok()) {
            listener = Some(listen(addr).await);
        }
        tokio::select! {
            // The senders live in `shared`.
            _ = modes.changed() => {}
            _ = starts.changed() => {
                starts.mark_unchanged();
                reached = false;
            }
            accepted = accept(listener.as_ref()) => {
                shared.counters.connections.fetch_add(1, Ordering::Relaxed);
                let pipe = Pipe { target: shared.target(), modes: modes.clone(), counters: shared.counters.clone() };
                connections.spawn(pipe.run(accepted));
            }
            Some(ended) = connections.join_next() => match ended {
                Ok(End::TargetRefused) if reached => listener = None,
                Ok(End::TargetRefused) => {}
                Ok(End::Over { reached: it_was }) => reached |= it_was,
                Err(error) => panic!("a connection of the proxy: {error}"),
            },
            () = tokio::time::sleep(LOOK), if listener.is_none() && mode != Mode::Cut => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    loop {
        let Some(listener) = listener else { std::future::pending().await };
        if let Ok((stream, _)) = listener.accept().await {
            return stream;
        }
        // Out of descriptors, most likely; the next one may be closed in a moment.
        tokio::time::sleep(LOOK).await;
    }
}
