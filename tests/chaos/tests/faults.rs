//! Each fault does what it says.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgfleet_chaos::faults::clock::Clock;
use pgfleet_chaos::faults::proxy::{Direction, Mode, Proxy};
use pgfleet_harness::wait::wait_until;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);
/// Within this time nothing comes, where nothing may come.
const SILENCE: Duration = Duration::from_millis(300);

/// A server that sends back what it gets, until the value goes.
async fn echo(port: u16) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (mut reads, mut writes) = stream.split();
                // A reset connection is what some of these tests are about.
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
            });
        }
    });
    (addr, tasks)
}

async fn says(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    hears(stream, text.len()).await
}

async fn hears(stream: &mut TcpStream, length: usize) -> String {
    let mut heard = vec![0; length];
    timeout(LIMIT, stream.read_exact(&mut heard)).await.expect("nothing came").unwrap();
    String::from_utf8(heard).unwrap()
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read_u8()).await.is_err()
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let read = timeout(LIMIT, stream.read_u8()).await.expect("it is still open");
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn what_passes_passes() {
    let (target, _server) = echo(0).await;
    let proxy = Proxy::start(target).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(says(&mut stream, "hello").await, "hello");
    // Whoever has nothing more to say is heard to the end.
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!((proxy.counters().connections(), proxy.counters().bytes(), proxy.counters().struck()), (1, 10, 0));
}

#[tokio::test]
async fn a_cut_link_resets_and_refuses() {
    let (target, _server) = echo(0).await;
    let proxy = Proxy::start(target).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    says(&mut stream, "a").await;
    proxy.set(Mode::Cut);
    assert!(is_reset(&mut stream).await);
    wait_until("new connections are refused", LIMIT, async || {
        let error = TcpStream::connect(proxy.addr()).await.err();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
    .await;
    proxy.set(Mode::Pass);
    wait_until("it passes again", LIMIT, async || TcpStream::connect(proxy.addr()).await.is_ok()).await;
    assert_eq!(proxy.counters().struck(), 1);
}

/// Also one whose receiver reads nothing, so that the proxy cannot pass on what it holds.
#[tokio::test]
async fn a_stuck_connection_is_cut_at_once() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut deaf, _) = listener.accept().await.unwrap();
    // It has said all: the other direction is over and cannot notice the cut.
    deaf.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let piece = vec![0; 64 * 1024];
    // Full from end to end: nothing is taken for a while.
    while timeout(SILENCE, stream.write_all(&piece)).await.is_ok() {}
    proxy.set(Mode::Cut);
    // The end of answers was read, so the reset shows in what is written.
    assert!(timeout(LIMIT, stream.write_all(&piece)).await.unwrap().is_err());
}

#[tokio::test]
async fn a_port_that_resets_accepts_first() {
    let (target, _server) = echo(0).await;
    let proxy = Proxy::start(target).await;
    proxy.set(Mode::Reset);
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(is_reset(&mut stream).await);
}

#[tokio::test]
async fn a_silent_link_delivers_all_when_it_passes_again() {
    let (target, _server) = echo(0).await;
    let proxy = Proxy::start(target).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    says(&mut stream, "a").await;
    for mode in [Mode::HalfOpen, Mode::OneWay(Direction::Up), Mode::OneWay(Direction::Down)] {
        proxy.set(mode);
        stream.write_all(b"bc").await.unwrap();
        assert!(is_silent(&mut stream).await, "{mode:?}");
        proxy.set(Mode::Pass);
        assert_eq!(hears(&mut stream, 2).await, "bc", "{mode:?}");
    }
    // A new connection is accepted, and nothing comes.
    proxy.set(Mode::HalfOpen);
    let mut late = TcpStream::connect(proxy.addr()).await.unwrap();
    late.write_all(b"d").await.unwrap();
    assert!(is_silent(&mut late).await);
    proxy.set(Mode::Pass);
    assert_eq!(hears(&mut late, 1).await, "d");
}

#[tokio::test]
async fn a_slow_link_is_slow() {
    let (target, _server) = echo(0).await;
    let proxy = Proxy::start(target).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    for mode in [Mode::Delay(Duration::from_millis(100)), Mode::Slow(50)] {
        proxy.set(mode);
        let begun = std::time::Instant::now();
        assert_eq!(says(&mut stream, "0123456789").await, "0123456789");
        assert!(begun.elapsed() >= Duration::from_millis(200), "{mode:?} took {:?}", begun.elapsed());
    }
    // What waits goes on at once when the link is well again.
    proxy.set(Mode::Delay(LIMIT * 10));
    stream.write_all(b"x").await.unwrap();
    assert!(is_silent(&mut stream).await);
    proxy.set(Mode::Pass);
    assert_eq!(hears(&mut stream, 1).await, "x");
}

#[tokio::test]
async fn an_answer_ends_in_its_middle() {
    let (target, _server) = echo(0).await;
    let proxy = Proxy::start(target).await;
    proxy.set(Mode::CutMidBody { after_bytes: 4 });
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    stream.write_all(b"0123456789").await.unwrap();
    assert_eq!(hears(&mut stream, 4).await, "0123");
    assert!(is_reset(&mut stream).await);
}

#[tokio::test]
async fn a_target_that_is_down_is_refused_as_without_a_proxy() {
    let port = pgfleet_harness::fleet::free_port();
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await;
    // Not started yet: the port is open.
    let mut early = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(is_reset(&mut early).await);
    let (_, server) = echo(port).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    says(&mut stream, "a").await;
    drop((stream, server));
    wait_until("it is refused", LIMIT, async || {
        let error = TcpStream::connect(proxy.addr()).await.err();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
    .await;
    proxy.target_starts();
    wait_until("it is open for a start", LIMIT, async || TcpStream::connect(proxy.addr()).await.is_ok()).await;
    let (_, _server) = echo(port).await;
    wait_until("it serves again", LIMIT, async || {
        let Ok(mut stream) = TcpStream::connect(proxy.addr()).await else { return false };
        stream.write_all(b"a").await.is_ok() && stream.read_u8().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_clock_of_one_process_jumps() {
    let dir = std::env::temp_dir().join(format!("pgclock-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let Some(clock) = Clock::new(&dir.join("clock")) else {
        return pgfleet_harness::skip("the_clock_of_one_process_jumps", "the package faketime is missing");
    };
    // One process that tells three clocks a line each time it is asked.
    let mut command = Command::new("perl");
    command.args(["-MTime::HiRes=clock_gettime", "-e"]);
    command.arg("$|=1; while (<STDIN>) { print join(' ', map { clock_gettime($_) } (0, 1, 7)), qq(\\n) }");
    clock.give_to(&mut command);
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut asks, mut lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    let mut ask = async || {
        asks.write_all(b"\n").await.unwrap();
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
        let clocks: Vec<f64> = line.split(' ').map(|clock| clock.parse().unwrap()).collect();
        <[f64; 3]>::try_from(clocks).unwrap()
    };
    let before = ask().await;
    for seconds in [3600, -3600, 0] {
        clock.jump(seconds);
        let now = ask().await;
        #[expect(clippy::cast_precision_loss, reason = "an hour in seconds is exact")]
        let jumped = now[0] - before[0] - seconds as f64;
        assert!(jumped.abs() < 60.0, "the wall clock is {jumped} s off");
        for clock in [1, 2] {
            assert!((0.0..60.0).contains(&(now[clock] - before[clock])), "{before:?} {now:?}");
        }
    }
    drop(child);
    std::fs::remove_dir_all(&dir).unwrap();
}
