//! How long nothing was executed around a change of leader, from what a client saw. Pure.
//!
//! A client that sends one request right after the other gets an answer every so often anyway; what a change costs is the
//! largest distance between two answers around it, less the median distance. The largest is looked for while the hand-over
//! lasts and [`AFTERWARDS`] beyond it, because a new leader that stalls once it serves has made a gap as well. The median
//! is that of [`AROUND`] before and after.

use std::time::{Duration, Instant};

use crate::stats::{median, ms};

/// How long before and after a hand-over the usual distance is taken from.
pub const AROUND: Duration = Duration::from_millis(500);

/// How long after a hand-over a stall still counts as its gap.
const AFTERWARDS: Duration = Duration::from_millis(100);

/// One gap, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// The largest distance less the usual one.
    pub ms: f64,
    /// The usual distance.
    pub usual_ms: f64,
    /// From the request to take over to the last answer before the gap; negative if that came first.
    pub begins_ms: f64,
    /// From the answer of the taking over to the first answer after the gap; negative if that came first.
    pub ends_ms: f64,
}

/// The gap of a hand-over that was asked for at `asked` and done at `done`, in the answers of one client, which ascend.
/// None if the client got no answer afterwards.
#[must_use]
pub fn gap(answers: &[Instant], asked: Instant, done: Instant) -> Option<Gap> {
    let (from, to) = (asked.checked_sub(AROUND).unwrap_or(asked), done + AROUND);
    let pairs = || answers.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
    let around = pairs().filter(|(first, next)| *next >= from && *first <= to);
    let usual_ms = median(around.map(|(first, next)| ms(next - first)))?;
    let close = pairs().filter(|(first, next)| *next >= asked && *first <= done + AFTERWARDS);
    let (first, next) = close.max_by_key(|(first, next)| *next - *first)?;
    Some(Gap {
        ms: (ms(next - first) - usual_ms).max(0.0),
        usual_ms,
        begins_ms: signed_ms(asked, first),
        ends_ms: signed_ms(done, next),
    })
}

fn signed_ms(from: Instant, to: Instant) -> f64 {
    if to >= from { ms(to - from) } else { -ms(from - to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_largest_distance_less_the_median_and_only_around_the_change() {
        let base = Instant::now();
        let at = |ms| base + Duration::from_millis(ms);
        // An answer every 10 ms; a hole of 300 ms long before, one of 60 ms at the hand-over.
        let answers: Vec<Instant> = (0..10).chain(40..101).chain(106..200).map(|n| at(n * 10)).collect();
        let found = gap(&answers, at(1002), at(1050)).unwrap();
        assert_eq!(found, Gap { ms: 50.0, usual_ms: 10.0, begins_ms: -2.0, ends_ms: 10.0 });
        assert_eq!(gap(&answers, at(1500), at(1510)).unwrap().ms, 0.0, "nothing happened there");
        assert_eq!(gap(&answers, at(950), at(955)).unwrap().ms, 50.0, "a stall right after the hand-over is its gap");
        assert!(gap(&answers, at(5000), at(6000)).is_none());
    }
}
