//! The SQL of a small spec, by the agent's own clock, and the same as a psql script.

use pgfleet_harness::fleet::Fleet;

use super::home::{Agent, Bare, Home, spec};
use super::script;
use crate::metrics::samples;
use crate::stats::median;

/// Milliseconds of all phases of the first application of six roles and three databases to a running server; and of one run
/// of psql that does the same.
pub(super) async fn measure(fleet: &Fleet, n: usize) -> (Option<f64>, Option<f64>) {
    let (mut figures, mut scripts) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for round in 0..n {
        let (mut agent, _) = Agent::start(fleet, &format!("small-{round}"), Some(&spec(0, 0))).await;
        let before = in_phases(&agent.metrics().await);
        agent.apply(&spec(6, 3)).await;
        figures.push((in_phases(&agent.metrics().await) - before) * 1e3);
        let script = script::of(&agent.session("postgres").await, &agent.session("d0000").await).await;
        agent.stop().await;
        let (bare, _) = Bare::start(Home::make(fleet, &format!("small-b{round}")));
        scripts.push(bare.psql(&script));
        bare.stop();
    }
    (median(figures), median(scripts))
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
