//! An open load: requests that are due at fixed times, whatever became of those before them.
//!
//! Who calls it: the scenarios that ask how long an answer takes at a given rate. Lanes share the schedule; each is one
//! connection with one request under way. Latency counts from when a request was due, so one slow answer counts for every request
//! that it kept waiting. Only where a lane was idle at that time does it count from when the lane woke: the timers of this
//! program tick in milliseconds, and their lateness is not that of the answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::blast::{Compose, Line};
use crate::stats::Spread;

/// Connections of a load.
const LANES: usize = 32;

/// What is to be sent how often.
#[derive(Clone)]
pub struct Paced {
    /// To whom.
    pub to: SocketAddr,
    /// Requests per second.
    pub per_s: u32,
    /// The requests.
    pub compose: Compose,
}

/// A load under way.
#[derive(Debug)]
pub struct Running {
    end: CancellationToken,
    load: JoinSet<Vec<f64>>,
}

impl Running {
    /// Starts it on a thread of its own.
    #[must_use]
    pub fn start(paced: Paced) -> Self {
        let end = CancellationToken::new();
        let (mut load, until) = (JoinSet::new(), end.clone());
        load.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap_or_else(|error| panic!("no runtime for the load: {error}")).block_on(all(paced, until))
        });
        Self { end, load }
    }

    /// Ends it after the requests under way; the latency of each, in milliseconds.
    pub async fn finish(mut self) -> Vec<f64> {
        self.end.cancel();
        let ended = self.load.join_next().await;
        let ended = ended.unwrap_or_else(|| panic!("the load never began"));
        ended.unwrap_or_else(|error| panic!("the load broke: {error}"))
    }
}

/// Percentiles of a load's latencies.
#[must_use]
pub fn spread(latencies_ms: Vec<f64>) -> Spread {
    Spread::of(latencies_ms).unwrap_or_else(|| panic!("a load without an answer"))
}

async fn all(paced: Paced, end: CancellationToken) -> Vec<f64> {
    let mut lanes = JoinSet::new();
    let begun = Instant::now() + Duration::from_millis(20);
    for index in 0..LANES {
        let schedule = Schedule { begun, per_s: paced.per_s, lane: index };
        lanes.spawn(lane(paced.clone(), schedule, end.clone()));
    }
    let mut latencies = Vec::new();
    while let Some(ended) = lanes.join_next().await {
        latencies.extend(ended.unwrap_or_else(|error| panic!("a client of the load: {error}")));
    }
    latencies
}

/// When the requests of a lane are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    begun: Instant,
    per_s: u32,
    lane: usize,
}

impl Schedule {
    /// Of the lane's how many-th request: every [`LANES`]-th of all.
    fn due(self, number: usize) -> Instant {
        let all = (number * LANES + self.lane) as f64;
        self.begun + Duration::from_secs_f64(all / f64::from(self.per_s.max(1)))
    }

    /// From when the latency of a request counts, which the lane turned to at `free` and sent at `sent`.
    fn counts_from(self, number: usize, free: Instant, sent: Instant) -> Instant {
        let due = self.due(number);
        if free <= due { sent } else { due }
    }
}

async fn lane(paced: Paced, schedule: Schedule, end: CancellationToken) -> Vec<f64> {
    let mut line = Line::to(paced.to).await;
    let (mut request, mut latencies) = (Vec::new(), Vec::new());
    for number in 0.. {
        let free = Instant::now();
        tokio::select! {
            biased;
            () = end.cancelled() => break,
            () = tokio::time::sleep_until(schedule.due(number).into()) => {}
        }
        request.clear();
        (paced.compose)(schedule.lane, number, &mut request);
        let from = schedule.counts_from(number, free, Instant::now());
        line.exchange(&request).await;
        latencies.push(from.elapsed().as_secs_f64() * 1e3);
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lanes_together_keep_the_rate() {
        let begun = Instant::now();
        let of = |lane, number| Schedule { begun, per_s: 1000, lane }.due(number) - begun;
        assert_eq!(of(0, 0), Duration::ZERO);
        assert_eq!(of(5, 0), Duration::from_millis(5));
        assert_eq!(of(0, 1), Duration::from_millis(LANES as u64));
        let mut due: Vec<_> = (0..LANES).flat_map(|lane| (0..10).map(move |number| of(lane, number))).collect();
        due.sort();
        assert!(due.windows(2).all(|two| two[1] - two[0] == Duration::from_millis(1)), "{due:?}");
    }

    #[test]
    fn a_slow_answer_counts_for_those_that_waited() {
        let begun = Instant::now();
        let schedule = Schedule { begun, per_s: 1000, lane: 0 };
        let due = schedule.due(1);
        let (before, after) = (due - Duration::from_millis(1), due + Duration::from_millis(9));
        assert_eq!(schedule.counts_from(1, before, due + Duration::from_micros(700)), due + Duration::from_micros(700));
        assert_eq!(schedule.counts_from(1, after, after), due);
    }

    /// A server that stands still for a moment: everything that was due meanwhile shows it.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_due_while_the_server_stood_still_is_slow() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = socket.local_addr().unwrap();
        let still = Instant::now() + Duration::from_millis(300);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut each = JoinSet::new();
            while let Ok((mut stream, _)) = socket.accept().await {
                each.spawn(async move {
                    let mut bytes = [0; 1024];
                    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {
                        tokio::time::sleep_until(still.into()).await;
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    }
                });
            }
        });
        let compose: Compose =
            std::sync::Arc::new(|_, _, request| super::super::blast::head(request, "GET", "/", "", 0));
        let running = Running::start(Paced { to, per_s: 1000, compose });
        tokio::time::sleep(Duration::from_millis(900)).await;
        let latencies = running.finish().await;
        let slow = latencies.iter().filter(|latency| **latency > 100.0).count();
        assert!(slow > 100, "{slow} of {} are slow, and 200 were due more than 100 ms before", latencies.len());
    }
}
