//! What the gate keeps beside the requests: how long and how much is held, who is known to lead, and how many wait.
//!
//! Made by `app`, used by the gate only. Invariants: the bytes of all requests that are held or on their way to the leader
//! are bounded together; only a higher term replaces a leader that somebody named; a request that waits is counted until
//! it goes, whichever way.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use pgfleet_api::controller::LeaderRef;
use pgfleet_clients::forward::Forwarder;
use pgfleet_runtime::supervisor::TaskGroup;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::metrics::RequestMetrics;

/// What a request takes beside its body.
const HEAD_BYTES: u32 = 1024;

/// How long, how much, and whether at all.
#[derive(Debug, Clone, Copy)]
pub struct HoldSettings {
    /// A request is refused when nobody took it for this long.
    pub hold: Duration,
    /// Hand requests on to the leader.
    pub forward: bool,
    /// Bytes of all requests together.
    pub max_bytes: u32,
    /// Bytes that one body may have.
    pub max_body_bytes: u32,
}

/// How the process ends, one after the other.
#[derive(Debug, Clone)]
pub struct Ends {
    /// It was asked to; requests are still taken and answered.
    pub ending: CancellationToken,
    /// The listener closes; what is connected goes on.
    pub closing: CancellationToken,
    /// Connections without a request close as well.
    pub idle: CancellationToken,
    /// What is still under way is answered now or never.
    pub cut: CancellationToken,
}

impl Ends {
    /// None of it has come for the listener whose tasks run in this group.
    #[must_use]
    pub fn before(listening: &TaskGroup) -> Self {
        let new = CancellationToken::new;
        Self { ending: new(), closing: listening.token(), idle: new(), cut: new() }
    }
}

/// The gate's own state. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    settings: HoldSettings,
    ends: Ends,
    forwarder: Forwarder,
    room: Arc<Semaphore>,
    waiting: AtomicU32,
    heard: watch::Sender<Option<LeaderRef>>,
    moved: watch::Sender<u64>,
    suspect: Mutex<Option<String>>,
    metrics: Arc<RequestMetrics>,
}

impl Gate {
    /// A gate that nobody waits at.
    #[must_use]
    pub fn new(settings: HoldSettings, ends: Ends, forwarder: Forwarder, metrics: Arc<RequestMetrics>) -> Self {
        Self(Arc::new(Inner {
            settings,
            ends,
            forwarder,
            room: Arc::new(Semaphore::new(settings.max_bytes as usize)),
            waiting: AtomicU32::new(0),
            heard: watch::Sender::new(None),
            moved: watch::Sender::new(0),
            suspect: Mutex::default(),
            metrics,
        }))
    }

    /// Notes a leader that was named, if its term is the highest so far; says whether it was.
    pub fn hear(&self, leader: &LeaderRef) -> bool {
        self.0.heard.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| leader.term > known.term);
            if newer {
                *known = Some(leader.clone());
            }
            newer
        })
    }

    pub(super) fn settings(&self) -> HoldSettings {
        self.0.settings
    }

    /// How far the end of the process has come.
    #[must_use]
    pub fn ends(&self) -> &Ends {
        &self.0.ends
    }

    pub(super) fn forwarder(&self) -> &Forwarder {
        &self.0.forwarder
    }

    pub(super) fn metrics(&self) -> &RequestMetrics {
        &self.0.metrics
    }

    /// The leader of the highest term that was named, and every change of it.
    pub(super) fn heard(&self) -> watch::Receiver<Option<LeaderRef>> {
        self.0.heard.subscribe()
    }

    /// Moves whenever a request that was held was taken, so that the others do not wait for their own turn.
    pub(super) fn moved(&self) -> watch::Receiver<u64> {
        self.0.moved.subscribe()
    }

    /// The member at this address has taken a request and given no answer; perhaps it is dying. One at a time.
    pub(super) fn suspect(&self, address: &str) {
        *self.0.suspect.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.to_owned());
    }

    /// Whether it has, and has not given a sign of life since.
    pub(super) fn suspects(&self, address: &str) -> bool {
        self.0.suspect.lock().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(address)
    }

    /// It has answered.
    pub(super) fn trust(&self, address: &str) {
        self.0.suspect.lock().unwrap_or_else(PoisonError::into_inner).take_if(|suspect| suspect == address);
    }

    /// A place for a request of this size; none if none gets free in time. Whoever has none does not read the body.
    pub(super) async fn admit(&self, body_bytes: u32) -> Option<Charge> {
        let bytes = body_bytes.saturating_add(HEAD_BYTES).min(self.0.settings.max_bytes);
        let room = Arc::clone(&self.0.room).acquire_many_owned(bytes);
        let permit = tokio::time::timeout(self.0.settings.hold, room).await.ok()?.ok()?;
        self.0.metrics.bytes(i64::from(bytes));
        Some(Charge { gate: self.clone(), bytes: i64::from(bytes), _permit: permit })
    }

    /// What the body of a request will take, before it is read.
    pub(super) fn announced_bytes(&self, parts: &Parts) -> u32 {
        let most = self.0.settings.max_body_bytes;
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        match length {
            Some(length) => length.min(most),
            None if parts.headers.contains_key(TRANSFER_ENCODING) => most,
            None => 0,
        }
    }

    /// Begins to hold a request.
    pub(super) fn hold(&self) -> Held {
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        self.0.metrics.held();
        Held { gate: self.clone(), since: Instant::now() }
    }
}

/// A place of a request among all that are held or on their way.
pub(super) struct Charge {
    gate: Gate,
    bytes: i64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gate.0.metrics.bytes(-self.bytes);
    }
}

/// A request that waits for a leader.
pub(super) struct Held {
    gate: Gate,
    since: Instant,
}

impl Held {
    /// When it is refused.
    pub(super) fn until(&self) -> Instant {
        self.since + self.gate.0.settings.hold
    }

    /// How long to pause at least, so that all that wait ask about once in a millisecond together, however many they are.
    pub(super) fn crowd(&self) -> Duration {
        Duration::from_millis(u64::from(self.gate.0.waiting.load(Ordering::SeqCst)))
    }

    /// It was taken: the others need not wait any longer either.
    pub(super) fn taken(self) {
        self.gate.0.moved.send_modify(|count| *count += 1);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.gate.0.metrics.let_go(self.since.elapsed());
    }
}
