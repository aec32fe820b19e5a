//! One connection through a proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::proxy::{Counters, Direction, Mode};

/// Bytes that are passed on at once.
const PIECE: usize = 16 * 1024;

/// How a connection ended.
pub(super) enum End {
    /// The target's port is closed.
    TargetRefused,
    /// In any other way.
    Over {
        /// Whether the target was reached.
        reached: bool,
    },
}

/// Why one direction ended.
enum Stopped {
    /// The sender has nothing more to say, and the receiver was told.
    Finished,
    /// Both ends are to be reset.
    Reset,
}

pub(super) struct Pipe {
    pub(super) target: SocketAddr,
    pub(super) modes: watch::Receiver<Mode>,
    pub(super) counters: Arc<Counters>,
}

impl Pipe {
    pub(super) async fn run(mut self, mut client: TcpStream) -> End {
        // A silent link does not reach the target before it passes again.
        let open = loop {
            match *self.modes.borrow_and_update() {
                Mode::Cut | Mode::Reset => break false,
                Mode::HalfOpen | Mode::OneWay(_) => {}
                Mode::Pass | Mode::Delay(_) | Mode::CutMidBody { .. } | Mode::Slow(_) => break true,
            }
            self.struck();
            if self.modes.changed().await.is_err() {
                break false;
            }
        };
        if !open {
            self.struck();
            reset(client);
            return End::Over { reached: false };
        }
        let mut target = match TcpStream::connect(self.target).await {
            Ok(target) => target,
            Err(error) => {
                reset(client);
                let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
                return if refused { End::TargetRefused } else { End::Over { reached: false } };
            }
        };
        for stream in [&client, &target] {
            // Only latency depends on it.
            let _ = stream.set_nodelay(true);
        }
        let stopped = {
            let (client_reads, client_writes) = client.split();
            let (target_reads, target_writes) = target.split();
            let up = self.pump(client_reads, target_writes, Direction::Up);
            let down = self.pump(target_reads, client_writes, Direction::Down);
            let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
            tokio::select! {
                stopped = &mut up => match stopped {
                    Stopped::Finished => down.await,
                    Stopped::Reset => Stopped::Reset,
                },
                stopped = &mut down => match stopped {
                    Stopped::Finished => up.await,
                    Stopped::Reset => Stopped::Reset,
                },
            }
        };
        if matches!(stopped, Stopped::Reset) {
            reset(client);
            reset(target);
        }
        End::Over { reached: true }
    }

    fn struck(&self) {
        self.counters.struck.fetch_add(1, Ordering::Relaxed);
    }

    /// Passes on what comes, as the mode of the moment says.
    async fn pump(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, direction: Direction) -> Stopped {
        let mut modes = self.modes.clone();
        let mut piece = vec![0; PIECE];
        let mut held: Option<usize> = None;
        let mut left: Option<u64> = None;
        loop {
            let mode = *modes.borrow_and_update();
            match gate(mode, direction) {
                Gate::Closed => {
                    self.struck();
                    return Stopped::Reset;
                }
                Gate::Silent => {
                    self.struck();
                    if modes.changed().await.is_err() {
                        return Stopped::Reset;
                    }
                    continue;
                }
                Gate::Open { limit: Some(limit) } => {
                    left.get_or_insert(limit);
                }
                Gate::Open { limit: None } => left = None,
            }
            let length = match held {
                Some(length) => length,
                None => tokio::select! {
                    read = from.read(&mut piece) => match read {
                        Ok(0) => return if to.shutdown().await.is_ok() { Stopped::Finished } else { Stopped::Reset },
                        Ok(length) => {
                            held = Some(length);
                            length
                        }
                        Err(_) => return Stopped::Reset,
                    },
                    // The sender outlives its connections.
                    _ = modes.changed() => {
                        modes.mark_changed();
                        continue;
                    }
                },
            };
            let wait = wait(mode, length);
            if wait > Duration::ZERO {
                self.struck();
            }
            tokio::select! {
                biased;
                changed = modes.changed() => {
                    // Whatever it is now, the piece is held until it may pass.
                    if changed.is_err() {
                        return Stopped::Reset;
                    }
                    modes.mark_changed();
                    continue;
                }
                () = tokio::time::sleep(wait) => {}
            }
            let passes = left.map_or(length, |left| length.min(usize::try_from(left).unwrap_or(usize::MAX)));
            tokio::select! {
                written = to.write_all(piece.get(..passes).unwrap_or_default()) => if written.is_err() {
                    return Stopped::Reset;
                },
                // A receiver that reads nothing must not keep a cut from its connection.
                () = closes(modes.clone(), direction) => {
                    self.struck();
                    return Stopped::Reset;
                }
            }
            held = None;
            self.counters.bytes.fetch_add(passes as u64, Ordering::Relaxed);
            if let Some(left) = &mut left {
                *left -= passes as u64;
                if *left == 0 || passes < length {
                    self.struck();
                    return Stopped::Reset;
                }
            }
        }
    }
}

/// Whether a direction is open in a mode.
enum Gate {
    Closed,
    Silent,
    Open { limit: Option<u64> },
}

fn gate(mode: Mode, direction: Direction) -> Gate {
    match mode {
        Mode::Cut | Mode::Reset => Gate::Closed,
        Mode::HalfOpen => Gate::Silent,
        Mode::OneWay(silent) if silent == direction => Gate::Silent,
        Mode::CutMidBody { after_bytes } if direction == Direction::Down => Gate::Open { limit: Some(after_bytes) },
        Mode::Pass | Mode::Delay(_) | Mode::OneWay(_) | Mode::CutMidBody { .. } | Mode::Slow(_) => {
            Gate::Open { limit: None }
        }
    }
}

/// Returns when the mode closes this direction, or there is nobody left to change it.
async fn closes(mut modes: watch::Receiver<Mode>, direction: Direction) {
    // An error says that the proxy is gone, and its connections go too.
    let _ = modes.wait_for(|mode| matches!(gate(*mode, direction), Gate::Closed)).await;
}

/// How long a piece waits in a mode.
fn wait(mode: Mode, length: usize) -> Duration {
    match mode {
        Mode::Delay(delay) => delay,
        Mode::Slow(per_second) => {
            let bytes = f64::from(u32::try_from(length).unwrap_or(u32::MAX));
            Duration::from_secs_f64(bytes / f64::from(per_second.max(1)))
        }
        Mode::Pass | Mode::Cut | Mode::Reset | Mode::HalfOpen | Mode::OneWay(_) | Mode::CutMidBody { .. } => {
            Duration::ZERO
        }
    }
}

/// Ends a connection with RST.
fn reset(stream: TcpStream) {
    // Where it cannot be set the end is an ordinary one.
    let _ = stream.set_zero_linger();
    drop(stream);
}
