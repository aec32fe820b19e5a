//! How a figure grows: a power of the size, by least squares between logarithms. Pure.

/// The exponent of the power law that fits these points of (size, figure) best; none of fewer than two sizes, or where a
/// figure is not above 0.
#[must_use]
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    if points.iter().any(|(size, figure)| *size <= 0.0 || *figure <= 0.0) {
        return None;
    }
    let logs: Vec<(f64, f64)> = points.iter().map(|(size, figure)| (size.ln(), figure.ln())).collect();
    let count = logs.len() as f64;
    let (mean_x, mean_y) =
        (logs.iter().map(|(x, _)| x).sum::<f64>() / count, logs.iter().map(|(_, y)| y).sum::<f64>() / count);
    let spread: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let both: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then(|| both / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_is_found() {
        for power in [0.5, 1.0, 1.05, 2.0] {
            let points: Vec<_> = [1e3, 5e3, 2e4, 5e4].map(|size: f64| (size, 3.0 * size.powf(power))).to_vec();
            let found = exponent(&points).unwrap();
            assert!((found - power).abs() < 1e-9, "{found} for {power}");
        }
        assert!((exponent(&[(1.0, 5.0), (10.0, 5.0)]).unwrap()).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        assert_eq!(exponent(&[]), None);
        assert_eq!(exponent(&[(10.0, 5.0), (10.0, 6.0)]), None);
        assert_eq!(exponent(&[(10.0, 5.0), (100.0, 0.0)]), None);
    }
}
