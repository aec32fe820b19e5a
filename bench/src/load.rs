//! Clients that write specs and read computes, each on a connection of its own, and a record of every request.
//!
//! Who calls it: the scenarios. A lane is one client without retries: what fails has failed. With several endpoints it moves
//! on to the next one only when the connection is refused, which proves that nothing was sent. In a lane with a period a
//! request is due at a fixed time, whatever became of the one before it, and its latency counts from that time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::Method;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::SpecAccepted;
use pgfleet_api::{ComputeId, Generation};
use pgfleet_clients::token::{Grant, Source};
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::wire::{Ask, Failure, Wire};

/// How long a load may take to come to what a scenario waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// After a failure a client without a period does not spin.
const AFTER_FAILURE: Duration = Duration::from_millis(1);

/// What a lane does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Puts a spec with new content.
    Write,
    /// Gets a compute.
    Read,
}

/// When a lane sends.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each request right after the answer to the one before it.
    BackToBack,
    /// A request is due this long after the start, and then again after each period.
    Every {
        /// The first one.
        first: Duration,
        /// The distance.
        period: Duration,
    },
}

/// One client.
#[derive(Debug, Clone)]
pub struct Lane {
    /// What it does.
    pub kind: Kind,
    /// Base URLs of the members it knows, the first one first.
    pub endpoints: Vec<String>,
    /// When it sends.
    pub pace: Pace,
    /// One connection for all requests; otherwise one for each.
    pub keep_alive: bool,
}

impl Lane {
    /// Lanes that together send `per_second` requests, `width` of them to each member, evenly spread.
    #[must_use]
    pub fn spread(kind: Kind, members: &[String], width: usize, per_second: u32) -> Vec<Self> {
        let count = u32::try_from(members.len() * width).unwrap_or(u32::MAX);
        let distance = Duration::from_secs(1) / per_second;
        let pace = |index: u32| Pace::Every { first: distance * index, period: distance * count };
        let members = members.iter().cycle();
        (0..count)
            .zip(members)
            .map(|(index, member)| Self { kind, endpoints: vec![member.clone()], pace: pace(index), keep_alive: true })
            .collect()
    }
}

/// One finished request.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// What it was.
    pub kind: Kind,
    /// Of which compute.
    pub compute: ComputeId,
    /// When it should have been sent.
    pub due: Instant,
    /// When its answer arrived, or it failed.
    pub ended: Instant,
    /// The generation that the answer names, or why it failed.
    pub outcome: Result<Generation, Failure>,
}

impl Exchange {
    /// Whether it was executed, as far as the client knows.
    #[must_use]
    pub fn executed(&self, kind: Kind) -> bool {
        self.kind == kind && self.outcome.is_ok()
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    book: Arc<Mutex<Vec<Exchange>>>,
    end: CancellationToken,
    lanes: JoinSet<()>,
}

impl Load {
    /// Starts these lanes over these computes.
    #[must_use]
    pub fn start(lanes: Vec<Lane>, computes: &[ComputeId], tokens: &Source) -> Self {
        let mut load = Self { book: Arc::default(), end: CancellationToken::new(), lanes: JoinSet::new() };
        let (run, begun) = (uuid::Uuid::new_v4().simple().to_string(), Instant::now());
        for (index, lane) in lanes.into_iter().enumerate() {
            let Some(compute) = computes.get(index % computes.len().max(1)) else { break };
            let client = Client {
                wires: lane.endpoints.iter().map(|url| Wire::new(url)).collect(),
                at: 0,
                mark: format!("{run}-{index}"),
                compute: compute.clone(),
                tokens: tokens.clone(),
                lane,
            };
            load.lanes.spawn(client.run(begun, load.book.clone(), load.end.clone()));
        }
        load
    }

    /// What looks at the requests that have finished so far, in the order of their ends.
    pub fn look<T>(&self, look: impl FnOnce(&[Exchange]) -> T) -> T {
        look(&lock(&self.book))
    }

    /// Waits until so many requests of a kind that ended after `from` were executed.
    pub async fn executed(&self, kind: Kind, from: Instant, count: usize) {
        let what = format!("{count} requests ({kind:?}) are executed");
        wait_until(&what, PATIENCE, async || {
            self.look(|book| book.iter().rev().filter(|one| one.ended > from && one.executed(kind)).count() >= count)
        })
        .await;
    }

    /// Ends it after the requests under way.
    pub async fn finish(mut self) -> Vec<Exchange> {
        self.end.cancel();
        while let Some(ended) = self.lanes.join_next().await {
            ended.unwrap_or_else(|error| panic!("a client of the load: {error}"));
        }
        std::mem::take(&mut *lock(&self.book))
    }
}

fn lock(book: &Mutex<Vec<Exchange>>) -> MutexGuard<'_, Vec<Exchange>> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Client {
    lane: Lane,
    wires: Vec<Wire>,
    /// The endpoint that answered last.
    at: usize,
    mark: String,
    compute: ComputeId,
    tokens: Source,
}

impl Client {
    async fn run(mut self, begun: Instant, book: Arc<Mutex<Vec<Exchange>>>, end: CancellationToken) {
        for round in 0_u32.. {
            let due = match self.lane.pace {
                Pace::BackToBack => Instant::now(),
                Pace::Every { first, period } => begun + first + period * round,
            };
            if due > Instant::now() {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = tokio::time::sleep_until(due.into()) => {}
                }
            }
            if end.is_cancelled() {
                return;
            }
            let outcome = self.request(round).await;
            let (kind, compute) = (self.lane.kind, self.compute.clone());
            let failed = outcome.is_err();
            lock(&book).push(Exchange { kind, compute, due, ended: Instant::now(), outcome });
            if failed && matches!(self.lane.pace, Pace::BackToBack) {
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }

    /// One request: sent once, except that a refused connection moves it on to the next endpoint, to each once.
    async fn request(&mut self, round: u32) -> Result<Generation, Failure> {
        let ask = self.ask(round);
        let mut answer = Err(Failure::Refused);
        for _ in 0..self.wires.len() {
            let Some(wire) = self.wires.get_mut(self.at) else { break };
            answer = wire.send(&ask).await;
            if !self.lane.keep_alive {
                wire.close();
            }
            if answer != Err(Failure::Refused) {
                break;
            }
            self.at = (self.at + 1) % self.wires.len();
        }
        generation(self.lane.kind, &answer?)
    }

    fn ask(&self, round: u32) -> Ask {
        let (method, scope, rest) = match self.lane.kind {
            Kind::Write => (Method::PUT, Scope::Infra, "/spec"),
            Kind::Read => (Method::GET, Scope::Viewer, ""),
        };
        let token = self.tokens.token(&Grant::of(scope));
        let token = token.unwrap_or_else(|error| panic!("no token: {error}"));
        let body = match self.lane.kind {
            Kind::Write => marked(&format!("{}-{round}", self.mark)).to_string().into_bytes(),
            Kind::Read => Vec::new(),
        };
        Ask { method, path: format!("/control/v1/compute/{}{rest}", self.compute), token, body }
    }
}

/// The generation in an answer. One that cannot be read is as bad as none.
fn generation(kind: Kind, body: &[u8]) -> Result<Generation, Failure> {
    let read = match kind {
        Kind::Write => serde_json::from_slice::<SpecAccepted>(body).map(|accepted| accepted.generation),
        Kind::Read => serde_json::from_slice::<pgfleet_api::compute::ComputeView>(body).map(|view| view.generation),
    };
    read.map_err(|_| Failure::Broken)
}

#[cfg(test)]
mod tests;
