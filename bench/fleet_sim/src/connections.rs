//! The one listener: every connection belongs to the agent whose address it was made to.
//!
//! ```text
//! accept ─► agent by local address ─► away? reset at once ─► HTTP/1, kept alive ─► router
//!                                     script changed ─► look at the agent again        out of descriptors ─► oldest idle one
//! ```
//!
//! A connection ends as a real agent's would: idle for 30 s, the process gone (reset). When descriptors become scarce the
//! connections that were idle longest are closed; nobody is turned away because of it.

mod counts;
mod idle;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::address::agent_at;
use crate::fleet::Fleet;
use crate::http::Caller;
use crate::script::Away;

pub use counts::{ConnectionCounts, Counted};
use idle::{Idle, Seat};

/// As in a real agent: the head of a request must be complete after this time, and an idle connection is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// A head of a controller's request is below 1 KiB, and this is what every connection holds.
const BUFFER_BYTES: usize = 8192;
/// Handshakes that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// The connection is reset instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the script has the connection reset")]
struct Cut;

/// Listens on all loopback addresses at once. The socket is bound to the loopback interface where the system lets us, so
/// that nobody outside sees it; elsewhere connections from outside are closed.
///
/// # Errors
/// The port is taken, or the system refuses.
pub fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    if let Err(error) = socket.bind_device(Some(b"lo")) {
        tracing::warn!("the listener cannot be bound to the loopback interface: {error}");
    }
    socket.bind(SocketAddr::from(([0, 0, 0, 0], port)))?;
    socket.listen(BACKLOG)
}

/// Accepts and serves until `stop` is cancelled; at most `most` connections are open at once.
///
/// # Errors
/// None: the type is what a task of the chassis gives.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    fleet: Arc<Fleet>,
    most: usize,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut tasks = JoinSet::new();
    let mut idle = Idle::new(most);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!("a connection ended with a defect: {error}");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(n) = whose(&stream, &fleet) else { continue };
                    fleet.connections.accepted();
                    if let Some(mut agent) = fleet.agent(n) {
                        agent.tally.connects += 1;
                    }
                    if fleet.away(n) == Some(Away::Reset) {
                        fleet.connections.turned_away();
                        reset(&stream);
                        continue;
                    }
                    let seat = idle.seat(&fleet);
                    let open = Counted::new(&fleet);
                    tasks.spawn(connection(stream, n, router.clone(), open, seat));
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    idle.close_some(&fleet);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
    tasks.shutdown().await;
    Ok(())
}

/// The agent a connection was made to, if it is simulated here.
fn whose(stream: &TcpStream, fleet: &Fleet) -> Option<u32> {
    let address = stream.local_addr().ok()?;
    agent_at(address.ip()).filter(|n| *n < fleet.size())
}

/// Has the system send a reset when the stream is dropped.
fn reset(stream: &TcpStream) {
    // Where it cannot be, the other end sees an ordinary end.
    let _ = stream.set_zero_linger();
}

async fn connection(stream: TcpStream, n: u32, router: Router, open: Counted, seat: Seat) {
    let fleet = open.fleet();
    // A latency of 40 ms on small answers otherwise; a failure changes nothing else.
    let _ = stream.set_nodelay(true);
    let life = fleet.agent(n).map(|agent| agent.life());
    let service = service_fn(|request: Request<Incoming>| {
        seat.used();
        answer(request, n, &router, fleet, &seat)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT).max_buf_size(BUFFER_BYTES);
    let mut serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut playing = fleet.watch();
    loop {
        tokio::select! {
            ended = &mut serving => match ended {
                Ok(()) => return,
                Err(error) => {
                    if error.is_user() {
                        break;
                    }
                    return;
                }
            },
            () = seat.given_up() => std::pin::Pin::new(&mut serving).graceful_shutdown(),
            // A change that was announced, or one that the script has made by now.
            _ = playing.changed() => {}
            () = next_turn(n, fleet) => {}
        }
        let same_life = fleet.agent(n).map(|agent| agent.life()) == life;
        if !same_life || fleet.away(n) == Some(Away::Reset) {
            break;
        }
    }
    reset(&serving.into_parts().io.into_inner());
}

/// Returns when an agent goes or comes by itself; never, where it does not.
async fn next_turn(n: u32, fleet: &Fleet) {
    match fleet.next_turn(n) {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
    }
}

/// An answer in the time and the manner of the script.
async fn answer(
    mut request: Request<Incoming>,
    n: u32,
    router: &Router,
    fleet: &Fleet,
    seat: &Seat,
) -> Result<Response<Body>, Cut> {
    present(n, fleet).await?;
    let (pause, cut) = fleet.next_answer(n);
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
        present(n, fleet).await?;
    }
    if cut {
        fleet.connections.cut();
        return Err(Cut);
    }
    request.extensions_mut().insert(Caller(n));
    let response = match router.clone().oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if fleet.agent(n).is_none_or(|agent| agent.is_gone(fleet.now())) {
        // These were the last words of its process.
        seat.give_up();
    }
    Ok(response)
}

/// Waits while the agent stands still.
async fn present(n: u32, fleet: &Fleet) -> Result<(), Cut> {
    let mut playing = fleet.watch();
    loop {
        match fleet.away(n) {
            None => return Ok(()),
            Some(Away::Reset) => return Err(Cut),
            Some(Away::Silent) => playing.changed().await.map_err(|_| Cut)?,
        }
    }
}
