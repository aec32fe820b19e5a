//! The results of one scenario: the medians of its runs. Pure but for the head.

use serde::Serialize;
use serde_json::{Map, Value};

use super::targets::{Line, lines};
use crate::report::{commit, machine, today};

/// Figures where the worst run counts: what must not happen at all is not averaged away.
const WORST: [&str; 3] = ["lost", "unapplied_healthy", "failed"];

/// What one run of a scenario gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The figures: objects of numbers.
    pub figures: Value,
    /// What they are set beside, taken in the same run.
    pub floors: Value,
    /// What people should know of it.
    pub notes: Vec<String>,
}

/// What is written to the scenario's .json.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// The commit that was measured; `-dirty` if the checkout differs from it.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
    /// Cores, memory, kernel.
    pub machine: String,
    /// Runs.
    pub n: usize,
    /// The figures.
    pub figures: Value,
    /// The floors.
    pub floors: Value,
    /// What people should know of the figures.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl Report {
    /// Of these runs, on this machine.
    #[must_use]
    pub fn of(scenario: &'static str, runs: Vec<Measured>) -> Self {
        let (mut figures, mut floors, mut notes) = (Vec::new(), Vec::new(), Vec::<String>::new());
        let n = runs.len();
        for run in runs {
            figures.push(run.figures);
            floors.push(run.floors);
            for note in run.notes {
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        let (figures, floors) = (middle("", &figures), middle("", &floors));
        Self { scenario, commit: commit(), date: today(), machine: machine(), n, figures, floors, notes }
    }

    /// The figures that have a target.
    #[must_use]
    pub fn targets(&self) -> Vec<Line> {
        lines(self.scenario, &self.figures, &self.floors)
    }
}

/// Medians, key by key: of objects and lists each member, of numbers the median, of anything else the first.
fn middle(key: &str, runs: &[Value]) -> Value {
    match runs.first() {
        Some(Value::Object(first)) => {
            let of =
                |key: &String| middle(key, &runs.iter().filter_map(|run| run.get(key)).cloned().collect::<Vec<_>>());
            Value::Object(first.keys().map(|key| (key.clone(), of(key))).collect::<Map<_, _>>())
        }
        Some(Value::Array(first)) => {
            let of = |at| middle(key, &runs.iter().filter_map(|run| run.get(at)).cloned().collect::<Vec<_>>());
            Value::Array((0..first.len()).map(of).collect())
        }
        Some(Value::Number(_)) => {
            let mut numbers: Vec<&Value> = runs.iter().filter(|run| run.is_number()).collect();
            let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
            numbers.sort_by(|a, b| number(a).total_cmp(&number(b)));
            let at = if WORST.contains(&key) { numbers.len() - 1 } else { (numbers.len() - 1) / 2 };
            numbers[at].clone()
        }
        other => other.cloned().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(figures: Value, note: &str) -> Measured {
        Measured { figures, floors: json!({"floor_ms": 1}), notes: vec![note.to_owned()] }
    }

    #[test]
    fn medians_are_taken_key_by_key_and_the_worst_of_what_must_not_be() {
        let runs = [(3.5, 0), (1.0, 2), (2.0, 1)]
            .map(|(ms, lost)| run(json!({"a": {"ms": ms, "lost": lost}, "points": [[10, ms]], "text": "x"}), "same"));
        let report = Report::of("accept", runs.to_vec());
        assert_eq!(report.figures, json!({"a": {"ms": 2.0, "lost": 2}, "points": [[10, 2.0]], "text": "x"}));
        assert_eq!((report.n, report.notes.len()), (3, 1));
        assert_eq!(report.floors, json!({"floor_ms": 1}));
    }

    #[test]
    fn a_figure_that_one_run_lacks_is_that_of_the_others() {
        let report = Report::of("x", vec![run(json!({"a": 1}), "one"), run(json!({"a": null}), "two")]);
        assert_eq!(report.figures, json!({"a": 1}));
    }

    #[test]
    fn the_head_of_the_results_is_a_contract() {
        let json = serde_json::to_value(Report::of("push", vec![run(json!({}), "n")])).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["commit", "date", "figures", "floors", "machine", "n", "scenario"]);
    }
}
