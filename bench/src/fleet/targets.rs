//! What the figures have to be, and whether they are. Pure.

use serde_json::Value;

use crate::stats::rounded;

/// A figure that has a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it is.
    pub what: String,
    /// The figure; none where it was not measured.
    pub figure: Option<f64>,
    /// What it is held against.
    pub target: f64,
    /// Whether more is better.
    pub at_least: bool,
    /// Its unit.
    pub unit: &'static str,
}

impl Line {
    /// Whether it is as wanted; none where it was not measured.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        self.figure.map(|figure| if self.at_least { figure >= self.target } else { figure <= self.target })
    }

    /// `met`, or by how much it is missed.
    #[must_use]
    pub fn verdict(&self) -> String {
        match (self.is_met(), self.figure) {
            (Some(true), _) => "met".to_owned(),
            (Some(false), Some(figure)) => {
                format!("missed by {}{}", rounded((figure - self.target).abs()), self.unit)
            }
            _ => "not measured".to_owned(),
        }
    }
}

/// The targets of a scenario over its figures and floors.
#[must_use]
pub fn lines(scenario: &str, figures: &Value, floors: &Value) -> Vec<Line> {
    let figure = |path: &str| figures.pointer(path).and_then(Value::as_f64);
    let floor = |path: &str| floors.pointer(path).and_then(Value::as_f64);
    let ratio = |figure: Option<f64>, floor: Option<f64>| {
        figure.zip(floor).filter(|(_, floor)| *floor > 0.0).map(|(figure, floor)| rounded(figure / floor))
    };
    let most = |what: &str, figure: Option<f64>, target: f64, unit| Line {
        what: what.to_owned(),
        figure,
        target,
        at_least: false,
        unit,
    };
    let least = |what: &str, figure, target, unit| Line { at_least: true, ..most(what, figure, target, unit) };
    match scenario {
        "accept" => {
            let accepted = figure("/clients_256/accepted_per_s");
            let lost = |clients| {
                most(&format!("lost, {clients} clients"), figure(&format!("/clients_{clients}/lost")), 0.0, "")
            };
            vec![
                least("256 clients / etcd put", ratio(accepted, floor("/etcd_put_per_s")), 2.0, " x"),
                least("256 clients / plain handler", ratio(accepted, floor("/plain_handler_per_s")), 2.0, " x"),
                least("256 clients / pgbench's best", ratio(accepted, floor("/pgbench_best_per_s")), 0.8, " x"),
                lost(1),
                lost(16),
                lost(256),
            ]
        }
        "push" => vec![least("push / bare loop", ratio(figure("/pushes_per_s"), floor("/bare_loop_per_s")), 0.5, " x")],
        "converge" => vec![
            most("10,000 computes", figure("/n10000_s"), 5.0, " s"),
            most("healthy ones left of 20,000", figure("/n20000_faulty/unapplied_healthy"), 0.0, ""),
        ],
        "steady" => vec![
            most("processor of the leader", figure("/cpu_percent_of_core"), 50.0, " % of a core"),
            most("reads, p99", figure("/read_ms/p99"), 3.0, " ms"),
            most("durable writes, p99", figure("/write_ms/p99"), 25.0, " ms"),
        ],
        "storm" => vec![most("API p99 / quiet", ratio(figure("/api_p99_ms"), floor("/quiet_p99_ms")), 2.0, " x")],
        "start" => vec![
            most("100,000 computes until ready", figure("/n100000/ready_s"), 0.8, " s"),
            most("100,000 computes until the first push", figure("/n100000/first_push_s"), 0.8, " s"),
            most("memory per compute", figure("/kb_per_compute"), 5.0, " kB"),
            most("memory per compute in a hand-over", figure("/kb_per_compute_handover"), 6.0, " kB"),
        ],
        "scrape" => vec![
            most("time at 100,000", figure("/n100000/ms"), 1.0, " ms"),
            most("size at 100,000", figure("/n100000/bytes"), 65_536.0, " bytes"),
        ],
        "growth" => vec![most("exponent of the processor time", figure("/cpu_exponent"), 1.05, "")],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fleet::plan::ALL;

    #[test]
    fn every_scenario_has_targets_and_a_miss_says_by_how_much() {
        for scenario in ALL {
            let lines = lines(scenario.name(), &json!({}), &json!({}));
            assert!(!lines.is_empty() && lines.iter().all(|line| line.verdict() == "not measured"), "{scenario:?}");
        }
        let accept = json!({"clients_256": {"accepted_per_s": 1500.0, "lost": 1}});
        let lines = lines("accept", &accept, &json!({"etcd_put_per_s": 1000.0, "pgbench_best_per_s": 1500.0}));
        let verdicts: Vec<_> = lines.iter().map(Line::verdict).collect();
        assert_eq!(verdicts[..3], ["missed by 0.5 x", "not measured", "met"]);
        assert_eq!(verdicts[5], "missed by 1");
    }
}
