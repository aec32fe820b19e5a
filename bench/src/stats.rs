//! Exact percentiles. Pure.

use std::time::Duration;

use serde::Serialize;

/// What a set of figures comes to. Rounded to a thousandth, because nothing here is measured more exactly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these figures; none of an empty set.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent| percentile(&sorted, percent).map(rounded);
        Some(Self { p50: at(50)?, p99: at(99)?, max: at(100)? })
    }
}

/// The nearest rank: the smallest figure that at least `percent` of all figures do not exceed. `sorted` ascends.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The median of these figures; none of an empty set.
#[must_use]
pub fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    Spread::of(figures).map(|spread| spread.p50)
}

/// Milliseconds.
#[must_use]
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// To a thousandth.
#[must_use]
pub fn rounded(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let hundred = (1..=100).rev().map(f64::from);
        assert_eq!(Spread::of(hundred), Some(Spread { p50: 50.0, p99: 99.0, max: 100.0 }));
        assert_eq!(Spread::of((1..=30).map(f64::from)), Some(Spread { p50: 15.0, p99: 30.0, max: 30.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { p50: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(Spread::of([]), None);
        assert_eq!(median([3.0, 1.0, 2.0004]), Some(2.0));
    }
}
