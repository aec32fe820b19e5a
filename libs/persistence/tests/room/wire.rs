//! A wire to the database that a test can cut at a chosen message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use pgfleet_harness::postgres::Cluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Carries everything.
pub const PASS: u8 = 0;
/// Hands the message on, waits for its answer, and cuts.
pub const CUT_AFTER: u8 = 1;
/// Cuts and does not hand the message on.
pub const CUT_BEFORE: u8 = 2;
/// Takes no connections.
pub const AWAY: u8 = 3;

/// Carries bytes both ways until it is told to cut at a message with the needle in it.
pub struct Wire {
    pub url: String,
    pub mode: Arc<AtomicU8>,
    then: Arc<AtomicU8>,
    _tasks: JoinSet<()>,
}

impl Wire {
    pub async fn to(cluster: &Cluster, url: &str, needle: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, then) = (Arc::new(AtomicU8::new(PASS)), Arc::new(AtomicU8::new(PASS)));
        let (shared, after, target) = (Arc::clone(&mode), Arc::clone(&then), cluster.port());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut wires = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if shared.load(Ordering::SeqCst) == AWAY {
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                wires.spawn(carry(client, server, needle, Arc::clone(&shared), Arc::clone(&after)));
            }
        });
        let url = url.replace(&format!(":{}/", cluster.port()), &format!(":{port}/"));
        Self { url, mode, then, _tasks: tasks }
    }

    pub fn cut(&self, how: u8, then: u8) {
        self.then.store(then, Ordering::SeqCst);
        self.mode.store(how, Ordering::SeqCst);
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    needle: &'static str,
    mode: Arc<AtomicU8>,
    then: Arc<AtomicU8>,
) {
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let is_it = up[..n].windows(needle.len()).any(|window| window == needle.as_bytes());
                let cut = if is_it { mode.load(Ordering::SeqCst) } else { PASS };
                if cut == CUT_BEFORE {
                    mode.store(then.load(Ordering::SeqCst), Ordering::SeqCst);
                    return;
                }
                server.write_all(&up[..n]).await.unwrap();
                if cut == CUT_AFTER {
                    assert!(server.read(&mut down).await.unwrap() > 0);
                    mode.store(then.load(Ordering::SeqCst), Ordering::SeqCst);
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&down[..n]).await.is_err() { return }
            }
        }
    }
}
