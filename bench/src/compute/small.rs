//! The SQL of a small spec, by the agent's own clock.

use pgfleet_harness::fleet::Fleet;

use super::home::{Agent, spec};
use crate::metrics::samples;
use crate::stats::median;

/// Milliseconds of all phases of the first application of six roles and three databases to a running server.
pub(super) async fn measure(fleet: &Fleet, n: usize) -> Option<f64> {
    let mut figures = Vec::with_capacity(n);
    for round in 0..n {
        let (mut agent, _) = Agent::start(fleet, &format!("small-{round}"), Some(&spec(0, 0))).await;
        let before = in_phases(&agent.metrics().await);
        agent.apply(&spec(6, 3)).await;
        figures.push((in_phases(&agent.metrics().await) - before) * 1e3);
        agent.stop().await;
    }
    median(figures)
}

/// Seconds that were spent in phases.
fn in_phases(page: &str) -> f64 {
    let sums = samples(page).filter(|(series, _)| series.starts_with("compute_ctl_apply_phase_duration_seconds_sum"));
    sums.map(|(_, seconds)| seconds).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_added_up() {
        let page = "compute_ctl_apply_phase_duration_seconds_sum{phase=\"roles\"} 0.5\n\
            compute_ctl_apply_phase_duration_seconds_count{phase=\"roles\"} 7\n\
            compute_ctl_apply_phase_duration_seconds_sum{phase=\"databases\"} 0.25\n";
        assert!((in_phases(page) - 0.75).abs() < 1e-9);
    }
}
