//! etcd's put: one member with its defaults, asked over gRPC.
//!
//! A put is one small message of two fields, so the client is HTTP/2 and twenty lines: what a generated client does, and no less.
//! A stream that does not end with `grpc-status: 0` ends the measurement.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{SendRequest, handshake};
use http::Request;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::Process;
use pgfleet_harness::wait::wait_until;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{CLIENTS, Course, Rates, compute_of};
use crate::fleet::ground::Ground;
use crate::stats::rounded;

/// Clients that share a connection, as etcd's own load does it.
const SHARE: usize = 16;

/// Puts per second at each number of clients. None where there is no etcd.
pub(super) async fn measure(ground: &Ground, course: &Course) -> Option<Rates> {
    let (_member, address) = start(&ground.fleet).await?;
    let mut rates = Vec::new();
    for clients in CLIENTS {
        let course = course.clone();
        let run = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime for etcd's load: {error}"));
            runtime.block_on(load(&course, address, clients))
        });
        rates.push((clients, rounded(run.await.unwrap_or_else(|error| panic!("etcd's load broke: {error}")))));
    }
    Some(rates)
}

async fn start(fleet: &Fleet) -> Option<(Process, SocketAddr)> {
    let program =
        ["/usr/bin/etcd", "/usr/local/bin/etcd"].into_iter().find(|path| std::path::Path::new(path).is_file());
    let Some(program) = program else {
        eprintln!("there is no etcd: its floor is left out (apt-get install etcd-server)");
        return None;
    };
    let (client, peer) = (free().await, free().await);
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = std::process::Command::new(program);
    command.arg("--data-dir").arg(fleet.dir().join("etcd"));
    command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.args(["--initial-cluster", &format!("default={peer_url}")]);
    let process = Process::start("etcd", command, &fleet.dir().join("logs/etcd.log"));
    let lead = async || {
        process.still_runs();
        let Ok(stream) = TcpStream::connect(client).await else { return false };
        let Ok((sender, connection)) = handshake(stream).await else { return false };
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        let Ok(mut sender) = sender.ready().await else { return false };
        put(&mut sender, message("ready", b"1")).await.is_ok()
    };
    wait_until("etcd takes a put", Duration::from_secs(20), lead).await;
    Some((process, client))
}

async fn free() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.and_then(|socket| socket.local_addr());
    socket.unwrap_or_else(|error| panic!("no free port: {error}"))
}

async fn load(course: &Course, to: SocketAddr, clients: usize) -> f64 {
    let (mut drivers, mut lanes) = (JoinSet::new(), JoinSet::new());
    let from = Instant::now() + course.warm_up;
    let until = from + course.window;
    let mut shared = None;
    for client in 0..clients {
        if client % SHARE == 0 {
            let stream = TcpStream::connect(to).await.unwrap_or_else(|error| panic!("etcd: {error}"));
            stream.set_nodelay(true).unwrap_or_else(|error| panic!("etcd: {error}"));
            let (sender, connection) = handshake(stream).await.unwrap_or_else(|error| panic!("etcd: {error}"));
            drivers.spawn(async move { drop(connection.await) });
            shared = Some(sender);
        }
        let Some(sender) = shared.clone() else { continue };
        lanes.spawn(lane(course.clone(), sender, client, from, until));
    }
    let mut count = 0;
    while let Some(ended) = lanes.join_next().await {
        count += ended.unwrap_or_else(|error| panic!("a client of etcd's load: {error}"));
    }
    count as f64 / course.window.as_secs_f64()
}

async fn lane(course: Course, sender: SendRequest<Bytes>, client: usize, from: Instant, until: Instant) -> usize {
    let mut count = 0;
    let mut body = Vec::new();
    let mut sender = sender;
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        body.clear();
        course.body(&mut body);
        sender = sender.ready().await.unwrap_or_else(|error| panic!("etcd is gone: {error}"));
        let key = compute_of(client, number);
        put(&mut sender, message(&key, &body)).await.unwrap_or_else(|error| panic!("no put: {error}"));
        let now = Instant::now();
        count += usize::from(now >= from && now < until);
    }
    count
}

/// One call.
async fn put(sender: &mut SendRequest<Bytes>, message: Bytes) -> Result<(), String> {
    let said = |error: h2::Error| error.to_string();
    let request = Request::post("http://etcd/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|error| error.to_string())?;
    let (answer, mut stream) = sender.send_request(request, false).map_err(said)?;
    stream.send_data(message, true).map_err(said)?;
    let answer = answer.await.map_err(said)?;
    let head = answer.headers().get("grpc-status").cloned();
    let mut body = answer.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(said)?;
        body.flow_control().release_capacity(chunk.len()).map_err(said)?;
    }
    let trailers = body.trailers().await.map_err(said)?.unwrap_or_default();
    let status = trailers.get("grpc-status").cloned().or(head);
    if status.as_ref().is_some_and(|status| status == "0") { Ok(()) } else { Err(format!("{status:?} {trailers:?}")) }
}

/// `PutRequest { key = 1, value = 2 }` in the frame of gRPC.
fn message(key: &str, value: &[u8]) -> Bytes {
    let mut put = BytesMut::new();
    for (field, bytes) in [(1_u8, key.as_bytes()), (2, value)] {
        put.put_u8(field << 3 | 2);
        let mut length = bytes.len();
        while length >= 0x80 {
            put.put_u8(length as u8 & 0x7f | 0x80);
            length >>= 7;
        }
        put.put_u8(length as u8);
        put.put_slice(bytes);
    }
    let mut framed = BytesMut::with_capacity(put.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(put.len()).unwrap_or(u32::MAX));
    framed.put_slice(&put);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_put_is_framed() {
        let framed = super::message("k", &[7; 200]);
        assert_eq!(framed[..5], [0, 0, 0, 0, 206]);
        assert_eq!(framed[5..11], [0x0a, 1, b'k', 0x12, 0xc8, 0x01]);
        assert_eq!(framed.len(), 211);
    }
}
