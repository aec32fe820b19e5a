//! What the records of the load say about a change of leader. Pure.

use std::time::{Duration, Instant};

use pgfleet_clients::controller::CallRecord;

/// Half of the second around a change.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// A change of leader, as a client felt it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The interruption in acknowledged writes.
    pub interruption: Duration,
    /// The median distance between two acknowledged writes around a hand-over, which was subtracted.
    pub usual_distance: Duration,
    /// Requests sent within the second around it.
    pub requests_around: usize,
    /// The slowest request that was under way within that second.
    pub slowest: Duration,
}

/// A hand-over between two moments: the largest distance between two acknowledged writes around it, minus the median
/// distance, which is what writing costs anyway.
pub fn hand_over(calls: &[CallRecord], from: Instant, to: Instant) -> Option<Change> {
    let acks: Vec<Instant> = acknowledged(calls).map(|call| call.ended).collect();
    let pairs = acks.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
    let mut distances: Vec<(Duration, Instant)> = pairs.map(|pair| (pair[1] - pair[0], pair[0])).collect();
    distances.sort();
    let median = distances.get(distances.len() / 2)?.0;
    let (largest, begun) = *distances.last()?;
    Some(Change { usual_distance: median, ..around(calls, begun + largest / 2, largest.saturating_sub(median)) })
}

/// A takeover after the leader at `killed` died at `at`: the time to the next write that another member acknowledged.
pub fn takeover(calls: &[CallRecord], at: Instant, killed: &str) -> Option<Change> {
    let by_another = |call: &&CallRecord| call.outcome.as_ref().is_ok_and(|endpoint| endpoint != killed);
    let next = acknowledged(calls).filter(by_another).map(|call| call.ended).find(|ended| *ended > at)?;
    Some(around(calls, at + (next - at) / 2, next - at))
}

/// Successful writes, in the order of their answers.
fn acknowledged(calls: &[CallRecord]) -> impl Iterator<Item = &CallRecord> {
    calls.iter().filter(|call| call.is_write && call.outcome.is_ok())
}

fn around(calls: &[CallRecord], middle: Instant, interruption: Duration) -> Change {
    // Before the process began there is nothing to count.
    let from = middle.checked_sub(HALF_A_SECOND).unwrap_or(middle);
    let to = middle + HALF_A_SECOND;
    let under_way = calls.iter().filter(|call| call.ended >= from && call.started <= to);
    Change {
        interruption,
        usual_distance: Duration::ZERO,
        requests_around: calls.iter().filter(|call| call.started >= from && call.started <= to).count(),
        slowest: under_way.map(|call| call.ended - call.started).max().unwrap_or_default(),
    }
}

/// The median and the largest latency.
pub fn latencies<'a>(calls: impl Iterator<Item = &'a CallRecord>) -> (Duration, Duration) {
    let mut all: Vec<Duration> = calls.map(|call| call.ended - call.started).collect();
    all.sort();
    (all.get(all.len() / 2).copied().unwrap_or_default(), all.last().copied().unwrap_or_default())
}

/// The controllers' own figure of the gap, from the new leader's metrics page.
pub fn own_gap_seconds(metrics: &str) -> Option<f64> {
    const NAME: &str = "storage_controller_handover_gap_seconds";
    let value = |name: &str| {
        let samples = metrics.lines().filter(|line| !line.starts_with('#'));
        let mut values = samples.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let bare = series.split('{').next()?;
            if bare == name { value.parse::<f64>().ok() } else { None }
        });
        values.next()
    };
    match (value(&format!("{NAME}_sum")), value(&format!("{NAME}_count"))) {
        (Some(sum), Some(count)) if count > 0.0 => Some(sum / count),
        (Some(_), Some(_)) => None,
        _ => value(NAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(base: Instant, started: u64, ended: u64, outcome: Result<&str, &str>) -> CallRecord {
        CallRecord {
            is_write: true,
            started: base + Duration::from_millis(started),
            ended: base + Duration::from_millis(ended),
            attempts: 1,
            pauses: 0,
            outcome: outcome.map(str::to_owned).map_err(str::to_owned),
        }
    }

    #[test]
    fn the_gap_is_the_largest_distance_less_the_median_and_only_around_the_change() {
        let base = Instant::now();
        let at = |ms| base + Duration::from_millis(ms);
        // Every 10 ms an answer; 60 ms without one after 1000; a longer hole long before the change does not count.
        let mut ends: Vec<u64> = (10..=50).map(|n| n * 10).collect();
        ends.extend((80..=100).map(|n| n * 10));
        ends.extend((106..=150).map(|n| n * 10));
        let calls: Vec<_> = ends.iter().map(|ms| call(base, ms - 5, *ms, Ok("a"))).collect();
        let change = hand_over(&calls, at(950), at(1100)).unwrap();
        assert_eq!(change.interruption, Duration::from_millis(50));
        assert_eq!(change.usual_distance, Duration::from_millis(10));
        assert_eq!(change.slowest, Duration::from_millis(5));
        assert_eq!(
            change.requests_around,
            calls.iter().filter(|c| c.started >= at(530) && c.started <= at(1530)).count()
        );
        assert!(hand_over(&calls, at(5000), at(6000)).is_none());
    }

    #[test]
    fn an_answer_of_the_killed_leader_that_was_on_its_way_is_no_takeover() {
        let base = Instant::now();
        let at = |ms| base + Duration::from_millis(ms);
        let calls = vec![
            call(base, 0, 10, Ok("a")),
            call(base, 95, 101, Ok("a")),
            call(base, 99, 130, Err("x")),
            call(base, 99, 140, Ok("b")),
        ];
        assert_eq!(takeover(&calls, at(100), "a").unwrap().interruption, Duration::from_millis(40));
        assert!(takeover(&calls[..3], at(100), "a").is_none());
    }

    #[test]
    fn the_own_figure_is_read_from_a_gauge_or_a_histogram() {
        let gauge = "# HELP storage_controller_handover_gap_seconds x\nstorage_controller_handover_gap_seconds 0.012\n";
        assert_eq!(own_gap_seconds(gauge), Some(0.012));
        let histogram = "storage_controller_handover_gap_seconds_bucket{le=\"+Inf\"} 2\n\
            storage_controller_handover_gap_seconds_sum 0.03\nstorage_controller_handover_gap_seconds_count 2\n";
        assert_eq!(own_gap_seconds(histogram), Some(0.015));
        assert_eq!(own_gap_seconds("other 1\n"), None);
    }
}
