//! The socket of an autoscaler: `GET /monitor`, a websocket that speaks version 1 of the reference's protocol.
//!
//! ```text
//! other end          here
//! {"min","max"}  ->  {"version":1} or {"error"}        within 4 s
//! UpscaleNotification -> UpscaleConfirmation   DownscaleRequest -> DownscaleResult   HealthCheck -> HealthCheck
//!                <-  UpscaleRequest, with an odd id, when memory is above its threshold
//! ```
//!
//! One conversation at a time: a new one ends the one before. Memory is sampled only while somebody listens. There is no
//! file cache on stock PostgreSQL, so a change of size changes nothing here but the threshold.

mod judge;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Readings;
use judge::Judge;
use wire::{Greeting, Inbound, Outbound, Versions};

/// Route of the socket.
pub const ROUTE: &str = "/monitor";
/// The one version there is.
const VERSION: u32 = 1;
/// How long the first word may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(4);
/// How long a word may take to be sent; a peer that does not read is gone.
const SEND_LIMIT: Duration = Duration::from_secs(4);
/// Between two samples.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Longest message.
const MESSAGE_BYTES: usize = 64 * 1024;

#[derive(Clone)]
struct Monitor(Arc<Inner>);

struct Inner {
    readings: Readings,
    judge: Mutex<Judge>,
    /// Ends the conversation that is under way.
    current: Mutex<CancellationToken>,
    /// Ends all.
    ended: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The route; `ended` ends its conversation.
pub fn router(readings: Readings, ended: CancellationToken) -> Router {
    let memory_bytes = readings.reading().map_or(u64::MAX, |reading| reading.limit_bytes);
    let judge = Mutex::new(Judge::new(readings.0.thresholds.memory_high_ratio, memory_bytes));
    let current = Mutex::new(ended.child_token());
    Router::new().route(ROUTE, get(open)).with_state(Monitor(Arc::new(Inner { readings, judge, current, ended })))
}

async fn open(State(monitor): State<Monitor>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MESSAGE_BYTES).on_upgrade(move |socket| monitor.converse(socket))
}

/// Why a conversation ends.
enum End {
    /// The other end closed it, is gone, or does not read.
    Left,
    /// Another one has begun, or the agent ends.
    Replaced,
}

impl Monitor {
    async fn converse(self, mut socket: WebSocket) {
        let stop = self.0.ended.child_token();
        std::mem::replace(&mut *lock(&self.0.current), stop.clone()).cancel();
        if !greet(&mut socket).await {
            return;
        }
        tracing::info!("an autoscaler listens to this compute");
        lock(&self.0.judge).forget();
        match self.talk(&mut socket, &stop).await {
            End::Left => tracing::info!("the autoscaler has left"),
            End::Replaced => {
                tracing::info!("the autoscaler's connection is closed here");
                // It may be gone already.
                let _ = timeout(SEND_LIMIT, socket.send(Message::Close(None))).await;
            }
        }
    }

    async fn talk(&self, socket: &mut WebSocket, stop: &CancellationToken) -> End {
        let mut samples = interval(SAMPLE_EVERY);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_id = 1;
        loop {
            let (message, id) = tokio::select! {
                () = stop.cancelled() => return End::Replaced,
                received = socket.recv() => match received {
                    Some(Ok(Message::Text(text))) => match self.answer(&text) {
                        Some(answer) => answer,
                        None => continue,
                    },
                    Some(Ok(Message::Binary(_))) => {
                        (Outbound::InvalidMessage { error: "only text frames are understood".to_owned() }, 0)
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Left,
                },
                _ = samples.tick() => {
                    if !self.sample() {
                        continue;
                    }
                    let id = next_id;
                    next_id += 2;
                    (Outbound::UpscaleRequest {}, id)
                }
            };
            if !say(socket, wire::write(&message, id)).await {
                return End::Left;
            }
        }
    }

    /// Takes a sample; whether more is wanted.
    fn sample(&self) -> bool {
        let Some(bytes) = self.0.readings.0.places.anon_bytes() else { return false };
        let (mut judge, now) = (lock(&self.0.judge), Instant::now());
        judge.sample(now, bytes);
        judge.wants_more(now)
    }

    fn answer(&self, text: &str) -> Option<(Outbound, u64)> {
        let (message, id) = match wire::read(text) {
            Ok(read) => read,
            Err(misfit) => return Some((Outbound::InvalidMessage { error: misfit.why }, misfit.id)),
        };
        let answer = match message {
            Inbound::UpscaleNotification(size) => {
                lock(&self.0.judge).granted(size.mem);
                Outbound::UpscaleConfirmation {}
            }
            Inbound::DownscaleRequest(size) => match lock(&self.0.judge).downscale(Instant::now(), size.mem) {
                Ok(verdict) => Outbound::DownscaleResult { ok: verdict.ok, status: verdict.status },
                Err(why) => Outbound::InternalError { error: why.to_owned() },
            },
            Inbound::HealthCheck => Outbound::HealthCheck {},
            Inbound::InvalidMessage(why) | Inbound::InternalError(why) => {
                tracing::warn!(id, "the autoscaler has trouble: {why:?}");
                return None;
            }
        };
        Some((answer, id))
    }
}

/// Agrees on the version; whether to go on.
async fn greet(socket: &mut WebSocket) -> bool {
    let said = match timeout(HANDSHAKE_LIMIT, socket.recv()).await {
        Ok(Some(Ok(Message::Text(text)))) => text,
        Ok(_) => return false,
        Err(_) => {
            tracing::warn!("an autoscaler said nothing for {} s", HANDSHAKE_LIMIT.as_secs());
            return false;
        }
    };
    let greeting = match serde_json::from_str::<Versions>(&said) {
        Ok(Versions { min, max }) if (min..=max).contains(&VERSION) => Greeting::Version(VERSION),
        Ok(Versions { min, max }) => {
            Greeting::Error(format!("only version {VERSION} is spoken here, not {min} to {max}"))
        }
        Err(error) => Greeting::Error(format!("a range of versions is needed first: {error}")),
    };
    let agreed = matches!(greeting, Greeting::Version(_));
    say(socket, serde_json::to_string(&greeting).unwrap_or_default()).await && agreed
}

async fn say(socket: &mut WebSocket, text: String) -> bool {
    timeout(SEND_LIMIT, socket.send(Message::Text(Utf8Bytes::from(text)))).await.is_ok_and(|sent| sent.is_ok())
}
